"""Dense weights, made from stored tensors by plain autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._torch.private import is_traced
from parametrizations._torch.transforms import may_look_at_values

__all__ = ["scattered", "with_diagonal"]

MANY = 2**12
"""From so many values on, ``index_copy_`` takes less time than ``scatter``, forward and backward."""


def scattered(values: Tensor, places: Tensor, size: int) -> Tensor:
    """Zeros, with values at some places: ``(size,)``.

    ``index_copy_`` copies no zeros and has the faster gradient, but no rule for `torch.func.vmap`.

    Args:
        values: ``(n,)``.
        places: ``(n,)``, int64, all different.
        size: How many numbers the result has.
    """
    zeros = values.new_zeros(size)
    if values.numel() < MANY or not may_look_at_values(values):
        return zeros.scatter(0, places, values)
    return zeros.index_copy_(0, places, values)


def with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """A copy of the matrix, ``(out, in)``, with ``diagonal``, ``(min(out, in),)``, on its main diagonal.

    Exported programs select instead of scattering: torch 2.13 decomposes ``diagonal_scatter`` for ONNX into an in-place
    copy, which its exporter then refuses; the older exporter does not know the operator.
    """
    if not (torch.compiler.is_exporting() or is_traced()):
        return matrix.diagonal_scatter(diagonal)
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape)
    column = F.pad(diagonal, (0, matrix.shape[0] - diagonal.shape[0]))[:, None]
    return torch.where(rows[:, None] == columns, column, matrix)
