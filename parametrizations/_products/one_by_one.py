"""Numbers that are brought to their places, and back, one by one: where these are no runs.

On a CPU, PyTorch's kernels that do this differ. To scatter or gather in a row of a matrix takes a third of the time of
`index_copy_` and `put` for a number, but has one thread for a row; to select by index takes as little, with one thread.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MANY", "read", "written"]

# Measured 2026-11-22, torch 2.13.0, one and two threads of a shared x86-64 machine.
ROWS = 64
"""What is shared among threads, in so many parts."""
MANY = 2**18
"""Fewer numbers take less time than to share them."""


def written(values: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a shape with values, ``(numbers,)``, at row-major places that differ, of int64."""
    size = math.prod(shape)
    if _has_both(values) and torch.get_num_threads() == 1:
        return values.new_zeros(1, size).scatter_(1, places[None], values[None]).view(shape)
    return values.new_zeros(size).index_copy_(0, places, values).view(shape)


def read(buffer: Tensor, places: Tensor, output: Tensor) -> None:
    """Write the numbers at places of a buffer, ``(size,)``, to an output, ``(numbers,)``."""
    shared = places.numel() // ROWS * ROWS if _is_shared(buffer, places) else 0
    if shared:
        source = buffer.resolve_conj().resolve_neg().expand(ROWS, -1)  # resolved later, each row would be a copy
        torch.gather(source, 1, places[:shared].view(ROWS, -1), out=output[:shared].view(ROWS, -1))
    torch.index_select(buffer, 0, places[shared:], out=output[shared:])


def _is_shared(buffer: Tensor, places: Tensor) -> bool:
    worth = places.numel() >= MANY and torch.get_num_threads() > 1
    return worth and places.dtype == torch.int64 and _has_both(buffer)  # to convert them would take what is saved


def _has_both(buffer: Tensor) -> bool:
    return buffer.device.type == "cpu" and buffer.dtype != torch.complex32
