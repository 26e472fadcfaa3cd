"""Small matrices: the number of operations counts more than their speed, so what is constant is kept."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from parametrizations._torch.transforms import may_look_at_values

__all__ = ["SMALL", "is_small", "off_diagonal", "zero", "zeros"]

SMALL = 2**16
"""Entries; what is kept, once for all matrices of a shape, takes up to so many numbers."""


def is_small(x: Tensor, shape: torch.Size) -> bool:
    """Whether a matrix of this shape, made eagerly from ``x``, is small."""
    return may_look_at_values(x) and shape.numel() <= SMALL  # in this order: a trace has no numbers to compare


@functools.lru_cache(maxsize=16)
def zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Never to be written into."""
    with torch.inference_mode(False):
        return torch.zeros(shape, dtype=dtype, device="cpu")


@functools.cache
def zero() -> Tensor:
    """A tensor of one number: a plain number would be made one at every call."""
    with torch.inference_mode(False):
        return torch.zeros((), device="cpu")


@functools.lru_cache(maxsize=16)
def off_diagonal(shape: torch.Size) -> Tensor:
    """The mask of what is beside the main diagonal."""
    with torch.inference_mode(False):
        return ~torch.eye(*shape, dtype=torch.bool, device="cpu")
