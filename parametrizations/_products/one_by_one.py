"""Numbers that are brought to their places, and back, one by one: where these are no runs.

On a CPU, PyTorch's kernels that do this differ: `scatter_` takes a third of the time of `index_copy_` for a number, but
goes through a vector in one thread; `index_select` has one thread too, and `gather` shares the rows of a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["read", "write"]

# Measured 2026-11-22, torch 2.13.0, one and two threads of a shared x86-64 machine.
ALONE = 2
"""Up to so many threads, one that scatters is as fast as all that copy by index."""
ROWS = 64
"""What is shared among threads, in so many parts."""
LEAST = 2**17
"""Fewer numbers take less time than to share them."""


def write(buffer: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """The buffer, ``(size,)``, with values, ``(numbers,)``, written at places that differ, of int64."""
    if _has_both(buffer) and torch.get_num_threads() <= ALONE:
        return buffer.scatter_(0, places, values)
    return buffer.index_copy_(0, places, values)


def read(buffer: Tensor, places: Tensor, output: Tensor) -> None:
    """Write the numbers at places of a buffer, ``(size,)``, to an output, ``(numbers,)``."""
    shared = places.numel() // ROWS * ROWS if _is_shared(buffer, places) else 0
    if shared:
        source = buffer.resolve_conj().resolve_neg().expand(ROWS, -1)  # resolved later, each row would be a copy
        torch.gather(source, 1, places[:shared].view(ROWS, -1), out=output[:shared].view(ROWS, -1))
    torch.index_select(buffer, 0, places[shared:], out=output[shared:])


def _is_shared(buffer: Tensor, places: Tensor) -> bool:
    worth = places.numel() >= LEAST and torch.get_num_threads() > 1
    return worth and places.dtype == torch.int64 and _has_both(buffer)  # to convert them would take what is saved


def _has_both(buffer: Tensor) -> bool:
    return buffer.device.type == "cpu" and buffer.dtype != torch.complex32
