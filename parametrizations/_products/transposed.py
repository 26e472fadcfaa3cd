"""A transposed copy that uses all threads."""

from __future__ import annotations

from torch import Tensor

__all__ = ["transposed"]

SHARED = 2**15
"""PyTorch copies fewer entries on one thread in any case."""


def transposed(matrix: Tensor) -> Tensor:
    """``matrix.mT``, contiguous.

    PyTorch copies a transposed matrix on one thread, but a batch of matrices, even of one, on all threads. This takes
    half the time for 128 x 4096 on two threads (measured 2026-11-21, torch 2.13.0, CPU).
    """
    if matrix.numel() < SHARED:
        return matrix.mT.contiguous()
    return matrix.mT.unsqueeze(0).contiguous().squeeze(0)
