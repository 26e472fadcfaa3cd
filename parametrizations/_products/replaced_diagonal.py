"""The product with a stored matrix whose diagonal is another one, without a second large matrix.

Copying the matrix to write its diagonal costs passes over all of it. One could multiply with the stored matrix
and then correct the diagonal's part: that is as fast as this, but loses digits wherever the stored diagonal is
much larger than the true one. So where the true diagonal is what is stored, nothing is copied; a small matrix
is copied once, for the forward and the backward pass; and of a large one only blocks on the diagonal are
copied, while what lies beside them multiplies straight from the stored matrix, strip by strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._products.accumulate import add_product
from parametrizations._products.operands import rows_of
from parametrizations._products.transposed import transposed
from parametrizations._torch.private import as_own
from parametrizations._torch.transforms import (
    eager_form,
    function_for,
    has_tangent,
    is_batched_by_autograd,
    may_look_at_values,
)

__all__ = ["BLOCK", "COPIED", "DiagonalMap", "replaced_diagonal_linear", "times"]

# Measured 2026-11-21, torch 2.13.0 (CPU build, MKL), two threads of a shared x86-64 machine.
BLOCK = 512
"""Rows of a strip of a large matrix."""
COPIED = 1024 * 1024
"""Up to this number of entries a matrix is copied whole: 4 MB of float32, held until the backward pass."""

DiagonalMap = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""From the stored diagonal, ``(k,)``, to the true one and its derivative, None for 0; differentiable."""


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
    rows = rows_of(input)
    with torch.no_grad():
        true, slope = diagonal(x.diagonal())
        weight = _whole(x, true)
    output = function_for(*FUNCTIONS)(rows, x, bias, true, slope, weight, diagonal, False)
    return output if input.dim() == 2 else output.view(*input.shape[:-1], x.shape[0])


def _whole(x: Tensor, true: Tensor) -> Tensor | None:
    """The weight, where it is the stored matrix itself or small enough to copy."""
    if may_look_at_values(x) and torch.equal(true, x.diagonal()):
        return x  # not detached, which would take a dual number's tangent away
    if x.numel() > COPIED:
        return None
    weight = x.clone()
    weight.diagonal().copy_(true)
    return weight


class _Product(torch.autograd.Function):
    """``input @ weight.mT + bias``; transposed, ``input @ weight`` without a bias."""

    @staticmethod
    def forward(
        input: Tensor,
        x: Tensor,
        bias: Tensor | None,
        true: Tensor,
        _slope: Tensor | None,
        weight: Tensor | None,
        _diagonal: DiagonalMap,
        transposed: bool,
    ) -> Tensor:
        if weight is not None:
            return input @ weight if transposed else F.linear(input, weight, bias)
        return _by_columns(input, x, true) if transposed else _by_rows(input, x, bias, true)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.diagonal, ctx.transposed = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, x, _, true, slope, weight = ctx.saved_tensors
        for_input, for_x, for_bias, *_ = ctx.needs_input_grad
        left, right = (input, grad) if ctx.transposed else (grad, input)
        again = (true, slope, weight, ctx.diagonal, not ctx.transposed)
        grad_input = _backward(grad, x, *again) if for_input else None
        grad_x = _outer(left, right, x, slope, ctx.diagonal) if for_x else None
        return grad_input, grad_x, grad.sum(0) if for_bias else None, None, None, None, None, None


class _TransformedProduct(_Product):
    """With what `torch.func` needs and `torch.compile` does not trace."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        input, x, _, _, _, _ = ctx.saved_tensors
        weight, slope = _dense(x, ctx.diagonal)
        parts = (tangents[0], weight), (input, _with_diagonal_scaled(tangents[1], slope))  # zeros where there is none
        output: Tensor = input.new_zeros(input.shape[0], x.shape[int(ctx.transposed)])
        for one, other in parts:
            output = output + (one @ other if ctx.transposed else one @ other.mT)
        return output if tangents[2] is None else output + tangents[2]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        diagonal, transposed = arguments[-2:]

        def dense(input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
            weight = _dense(x, diagonal)[0]
            return input @ weight if transposed else F.linear(input, weight, bias)

        return torch.vmap(dense, in_dims[:3], randomness=info.randomness)(*arguments[:3]), 0


FUNCTIONS = _Product, _TransformedProduct, eager_form(_TransformedProduct)


def _backward(grad: Tensor, x: Tensor, true: Tensor, slope: Tensor | None, weight: Tensor | None, *rest: Any) -> Tensor:
    """The gradient for the other side, differentiable where that is asked for."""
    if is_batched_by_autograd(grad):
        dense, transposed = _dense(x, rest[0])[0], rest[1]
        return grad @ (dense if transposed else dense.mT)
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() or has_tangent(grad, x)):
        return _Product.forward(grad, x, None, true, slope, weight, *rest)
    return function_for(*FUNCTIONS)(grad, x, None, true, slope, weight, *rest)


def _outer(left: Tensor, right: Tensor, x: Tensor, slope: Tensor | None, diagonal: DiagonalMap) -> Tensor:
    """The gradient of the stored matrix; the slope on its diagonal is differentiable where a second one is wanted."""
    outer = left.mT @ right
    if torch.is_grad_enabled():
        return _with_diagonal_scaled(outer, diagonal(x.diagonal())[1])
    own = outer.diagonal()
    if slope is None:
        own.zero_()
    else:
        own.copy_(times(own, slope))
    return outer


def _dense(x: Tensor, diagonal: DiagonalMap) -> tuple[Tensor, Tensor | None]:
    true, slope = diagonal(x.diagonal())
    return x.diagonal_scatter(true), slope


def _by_rows(input: Tensor, x: Tensor, bias: Tensor | None, true: Tensor) -> Tensor:
    """``input @ weight.mT``, as ``weight @ input.mT``: the faster way round for rows that lie in memory."""
    columns = transposed(input)
    output = x.new_zeros(x.shape[0], input.shape[0]) if bias is None else bias[:, None].repeat(1, input.shape[0])
    for row, column, part in _parts(x, true):
        add_product(output.narrow(0, row, part.shape[0]), part, columns.narrow(0, column, part.shape[1]))
    return as_own(transposed(output), (input.shape[0], x.shape[0]))


def _by_columns(input: Tensor, x: Tensor, true: Tensor) -> Tensor:
    """``input @ weight``."""
    output = x.new_zeros(input.shape[0], x.shape[1])
    for row, column, part in _parts(x, true):
        add_product(output.narrow(1, column, part.shape[1]), input.narrow(1, row, part.shape[0]), part)
    return output


def _parts(x: Tensor, true: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """The weight in parts, with the place of each: blocks on the diagonal as copies, what lies beside as views."""
    for row in range(0, x.shape[0], BLOCK):
        strip = x.narrow(0, row, min(BLOCK, x.shape[0] - row))
        left, right = min(row, x.shape[1]), min(row + strip.shape[0], x.shape[1])
        if left > 0:
            yield row, 0, strip.narrow(1, 0, left)
        if left < right:
            block = strip.narrow(1, left, right - left).clone()
            block.diagonal().copy_(true.narrow(0, left, right - left))
            yield row, left, block
        if right < x.shape[1]:
            yield row, right, strip.narrow(1, right, x.shape[1] - right)


def _with_diagonal_scaled(gradient: Tensor, slope: Tensor | None) -> Tensor:
    return gradient.diagonal_scatter(times(gradient.diagonal(), slope))


def times(gradient: Tensor, slope: Tensor | None) -> Tensor:
    """The product, 0 also for an infinite gradient where the weight does not depend on what is stored."""
    return torch.zeros_like(gradient) if slope is None else torch.where(slope == 0, 0, gradient * slope)
