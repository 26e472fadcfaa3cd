"""A matrix with given entries, and zeros elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parametrizations._products.small import is_small, zeros
from parametrizations._products.spread import Spread
from parametrizations._torch.private import as_own
from parametrizations._torch.transforms import may_look_at_values

__all__ = ["scattered"]


def scattered(x: Tensor, spread: Spread, shape: torch.Size) -> Tensor:
    """The matrix of a shape, ``(out, in)``, with ``x``, ``(entries,)``, at row-major places.

    PyTorch refuses one of the four ways where it is asked for deterministic algorithms, although no place is written
    to twice here.
    """
    if is_small(x, shape) and not torch.are_deterministic_algorithms_enabled():
        return zeros(shape, x.dtype).put(spread.places, x)  # one operation
    if not may_look_at_values(x):
        return x.new_zeros(shape.numel()).scatter(0, spread.places.long(), x).view(shape)
    weight: Tensor = _Scattered.apply(x, spread, shape)  # type: ignore[no-untyped-call]
    return weight


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
