"""A matrix with given entries, and zeros elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from parametrizations._products.small import is_small, zeros
from parametrizations._torch.transforms import may_look_at_values

__all__ = ["scattered"]


def scattered(x: Tensor, positions: Tensor, shape: torch.Size) -> Tensor:
    """The matrix of a shape, ``(out, in)``, with ``x``, ``(entries,)``, at row-major positions.

    PyTorch refuses one of the three ways where it is asked for deterministic algorithms, although no place is written
    to twice here.
    """
    if is_small(x, shape) and not torch.are_deterministic_algorithms_enabled():
        return zeros(shape, x.dtype).put(positions, x)  # one operation
    flat = x.new_zeros(shape.numel())
    if may_look_at_values(x):
        return flat.index_copy_(0, positions, x).view(shape)  # without a copy of the zeros
    return flat.scatter(0, positions, x).view(shape)
