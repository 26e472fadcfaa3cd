"""A matrix with another diagonal."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._torch.transforms import is_traced_for_onnx, may_look_at_values

__all__ = ["with_diagonal", "with_zero_diagonal"]

SMALL = 2**16
"""Up to so many entries, 64 KB, a mask of the diagonal is kept, once for all layers of a shape."""


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


def with_zero_diagonal(matrix: Tensor) -> Tensor:
    """A copy of the matrix with zeros on its main diagonal: in one operation where that takes longer than its work."""
    if may_look_at_values(matrix) and matrix.numel() <= SMALL:  # a trace has no numbers to compare
        return torch.where(_off_diagonal(matrix.shape), matrix, _zero())
    return with_diagonal(matrix, torch.zeros_like(matrix.diagonal()))


@functools.cache
def _zero() -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros((), device="cpu")  # as a tensor it need not be made at every call


@functools.lru_cache(maxsize=16)
def _off_diagonal(shape: torch.Size) -> Tensor:
    with torch.inference_mode(False):
        return ~torch.eye(*shape, dtype=torch.bool, device="cpu")
