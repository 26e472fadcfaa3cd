"""A matrix with another diagonal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._products.small import off_diagonal, zero
from parametrizations._torch.transforms import is_traced_for_onnx

__all__ = ["with_diagonal", "with_zero_diagonal"]


def with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """A copy of the matrix, ``(out, in)``, with these numbers, ``(min(out, in),)``, on its main diagonal.

    Exported programs select instead of scattering: torch 2.13 decomposes ``diagonal_scatter`` for ONNX into a copy in
    place, which its exporter then refuses; the older one does not know it.
    """
    if not (torch.compiler.is_exporting() or is_traced_for_onnx()):
        return matrix.diagonal_scatter(diagonal)
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape)
    column = F.pad(diagonal, (0, matrix.shape[0] - diagonal.shape[0]))[:, None]
    return torch.where(rows[:, None] == columns, column, matrix)


def with_zero_diagonal(matrix: Tensor, *, small: bool) -> Tensor:
    """A copy of the matrix with zeros on its main diagonal: in one operation where that takes longer than its work."""
    if small:
        return torch.where(off_diagonal(matrix.shape), matrix, zero())
    return with_diagonal(matrix, torch.zeros_like(matrix.diagonal()))
