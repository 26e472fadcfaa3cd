"""Some of many stored entries replaced by others, at the cost of one copy, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parametrizations._products.replaced_diagonal import DiagonalMap, times
from parametrizations._torch.private import are_transforms_active, is_traced
from parametrizations._torch.transforms import has_tangent, is_recorded

__all__ = ["replaced_entries"]


def replaced_entries(x: Tensor, index: Tensor | None, change: DiagonalMap) -> Tensor:
    """The entries ``x``, those at an index changed.

    Args:
        x: ``(entries,)``.
        index: Which, ``(k,)``; None for all of them.
        change: From entries to what they become, and its derivative, None for 0; differentiable.
    """
    if index is not None and not (are_transforms_active() or is_recorded() or is_traced()):
        replaced: Tensor = _Replaced.apply(x, index, change)  # type: ignore[no-untyped-call]  # plain autograd copies the entries four times
        return replaced
    every = torch.arange(x.numel(), device=x.device) if index is None else index
    return x.index_copy(0, every, change(x.index_select(0, every))[0])


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, change: DiagonalMap) -> Tensor:
        true, slope = change(x.index_select(0, index))
        ctx.change = change
        ctx.save_for_backward(x, index, slope)
        ctx.save_for_forward(x, index)
        return x.index_copy(0, index, true)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, index, slope = ctx.saved_tensors
        if torch.is_grad_enabled() or has_tangent(x):  # a second derivative is wanted, and is the slope's
            slope = ctx.change(x.index_select(0, index))[1]
        return _scaled(grad, index, slope), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        x, index = ctx.saved_tensors
        return _scaled(tangent, index, ctx.change(x.index_select(0, index))[1])  # which may have a gradient of its own


def _scaled(gradient: Tensor, index: Tensor, slope: Tensor | None) -> Tensor:
    return gradient.index_copy(0, index, times(gradient.index_select(0, index), slope))
