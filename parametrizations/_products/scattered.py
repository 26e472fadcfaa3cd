"""A matrix with given entries, and zeros elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parametrizations._products.one_by_one import MANY, written
from parametrizations._products.small import is_small, zeros
from parametrizations._products.spread import Spread
from parametrizations._torch.private import as_own
from parametrizations._torch.transforms import may_look_at_values

__all__ = ["scattered"]

FEW = 2**13
"""Up to so many numbers one thread takes less time for one slow operation than for a fast one and those around it."""


def scattered(x: Tensor, spread: Spread, shape: torch.Size) -> Tensor:
    """The matrix of a shape, ``(out, in)``, with ``x``, ``(entries,)``, at row-major places.

    PyTorch refuses one of the four ways where it is asked for deterministic algorithms, although no place is written
    to twice here.
    """
    if is_small(x, shape) and _may_be_put(x):
        return zeros(shape, x.dtype).put(spread.places, x)  # one operation
    if not may_look_at_values(x):
        return x.new_zeros(shape.numel()).scatter(0, spread.places.long(), x).view(shape)
    if spread.runs is None and x.numel() < MANY:  # autograd's own record takes less time than a function of ours
        return written(x, spread.places.long(), shape)
    weight: Tensor = _Scattered.apply(x, spread, shape)  # type: ignore[no-untyped-call]
    return weight


def _may_be_put(x: Tensor) -> bool:
    """Whether the operation that PyTorch refuses where it has to be deterministic is allowed, and the fastest."""
    return not torch.are_deterministic_algorithms_enabled() and (x.numel() <= FEW or torch.get_num_threads() > 1)


class _Scattered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, spread: Spread, shape: torch.Size) -> Tensor:
        ctx.spread, ctx.shape = spread, shape
        return as_own(spread.buffer(x), shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.spread.values(grad.reshape(-1)), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return scattered(tangent, ctx.spread, ctx.shape)  # which may have a gradient of its own
