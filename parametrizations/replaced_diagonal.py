"""The product with a stored matrix whose diagonal is another one, without a second matrix.

Copying the matrix to write its diagonal costs passes over all of it. Multiplying with the stored matrix and
correcting the diagonal's part afterwards is as fast as this, but loses digits wherever the stored diagonal
is large beside the true one. So only blocks on the diagonal are copied and given their true diagonal; what
lies beside them multiplies straight from the stored matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BLOCK", "DiagonalMap", "replaced_diagonal_linear"]

BLOCK = 512
"""Rows of a block: the best of 128 to 1024 on two threads, measured 2026-11-21."""

DiagonalMap = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From the stored diagonal, ``(k,)``, to the true one and its derivative; differentiable."""


def replaced_diagonal_linear(input: Tensor, x: Tensor, bias: Tensor | None, diagonal: DiagonalMap) -> Tensor:
    """``F.linear(input, weight, bias)`` with ``weight`` the stored matrix and its true diagonal.

    Args:
        input: ``(*, in)``.
        x: The stored matrix, ``(out, in)``.
        bias: ``(out,)``, or None.
        diagonal: The map on the diagonal.

    Returns:
        ``(*, out)``.
    """
    rows = input.reshape(-1, x.shape[1])
    with torch.no_grad():
        true, slope = diagonal(x.diagonal())
    return _apply(rows, x, bias, true, slope, diagonal).view(*input.shape[:-1], x.shape[0])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        input: Tensor, x: Tensor, bias: Tensor | None, true: Tensor, _slope: Tensor, _diagonal: DiagonalMap
    ) -> Tensor:
        return _multiply(input, x, bias, true)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.diagonal = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, x, _, true, slope = ctx.saved_tensors
        for_input, for_x, for_bias, *_ = ctx.needs_input_grad
        grad_input = _apply(grad, x.mT, None, true, slope, ctx.diagonal) if for_input else None
        grad_x = _outer(grad, input, x, slope, ctx.diagonal) if for_x else None
        return grad_input, grad_x, grad.sum(0) if for_bias else None, None, None, None


class _EagerProduct(_Product):
    """With what `torch.compile` does not trace, and does not need."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        input, x, _, _, _ = ctx.saved_tensors
        weight, slope = _dense(x, ctx.diagonal)
        output: Tensor = input.new_zeros(input.shape[0], x.shape[0])
        if tangents[0] is not None:
            output = output + tangents[0] @ weight.mT
        if tangents[1] is not None:
            output = output + input @ _with_diagonal_scaled(tangents[1], slope).mT
        if tangents[2] is not None:
            output = output + tangents[2]
        return output

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        diagonal: DiagonalMap = arguments[-1]

        def dense(input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
            return F.linear(input, _dense(x, diagonal)[0], bias)

        return torch.vmap(dense, in_dims[:3], randomness=info.randomness)(*arguments[:3]), 0


def _apply(*arguments: Any) -> Tensor:
    function = _Product if torch.compiler.is_compiling() else _EagerProduct
    output: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return output


def _outer(grad: Tensor, input: Tensor, x: Tensor, slope: Tensor, diagonal: DiagonalMap) -> Tensor:
    """The gradient of the stored matrix; what it scales its diagonal with is differentiated only if asked."""
    outer = grad.mT @ input
    if torch.is_grad_enabled():
        return _with_diagonal_scaled(outer, diagonal(x.diagonal())[1])
    own = outer.diagonal()
    own.copy_(_times(own, slope))
    return outer


def _dense(x: Tensor, diagonal: DiagonalMap) -> tuple[Tensor, Tensor]:
    true, slope = diagonal(x.diagonal())
    return x.diagonal_scatter(true), slope


def _multiply(input: Tensor, x: Tensor, bias: Tensor | None, true: Tensor) -> Tensor:
    """Strip by strip; what a strip needs is copied, so that it stays a part of no other tensor's graph."""
    return torch.cat([_strip(input, x, bias, true, start) for start in range(0, x.shape[0], BLOCK)], dim=1)


def _strip(input: Tensor, x: Tensor, bias: Tensor | None, true: Tensor, start: int) -> Tensor:
    """Some outputs: the block on the diagonal from a copy, what lies beside it as views."""
    columns = x.shape[1]
    rows = x.narrow(0, start, min(BLOCK, x.shape[0] - start))
    left, stop = min(start, columns), min(start + rows.shape[0], columns)
    block = _with_diagonal(rows.narrow(1, left, stop - left), true.narrow(0, left, stop - left))
    output = _add(None if bias is None else bias.narrow(0, start, rows.shape[0]), input, block, left)
    if left > 0:
        output = _add(output, input, rows.narrow(1, 0, left), 0)
    if stop < columns:
        output = _add(output, input, rows.narrow(1, stop, columns - stop), stop)
    return output


def _add(output: Tensor | None, input: Tensor, x: Tensor, start: int) -> Tensor:
    """Add the product with some columns of a strip, or begin with it."""
    part = input.narrow(1, start, x.shape[1])
    return part @ x.mT if output is None else torch.addmm(output, part, x.mT)


def _with_diagonal(block: Tensor, true: Tensor) -> Tensor:
    copied = block.clone(memory_format=torch.preserve_format)
    copied.diagonal().copy_(true)
    return copied


def _with_diagonal_scaled(gradient: Tensor, slope: Tensor) -> Tensor:
    return gradient.diagonal_scatter(_times(gradient.diagonal(), slope))


def _times(gradient: Tensor, slope: Tensor) -> Tensor:
    """The product, 0 also for an infinite gradient where the weight does not depend on what is stored."""
    return torch.where(slope == 0, 0, gradient * slope)
