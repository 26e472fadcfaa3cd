"""The product with a matrix at the cost of its entries' structure, and every derivative of it.

Two functions are each other's derivative: the product with the matrix or its transpose, and the outer product sampled
at the matrix's entries. So every order of differentiation costs what the structure costs.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from parametrizations._products.choice import product_dtype
from parametrizations._products.operands import rows_of
from parametrizations._products.transposed import transposed as copied_transposed
from parametrizations._torch.loops import once, went_backward
from parametrizations._torch.private import are_transforms_active, as_own
from parametrizations._torch.transforms import eager_form, function_for, is_batched_by_autograd

__all__ = ["Entries", "entries_linear"]


class Entries(Protocol):
    """Where a matrix ``(out, in)`` has its entries, in a form that products with it need.

    Never changed, only replaced, so that nothing in it goes stale.
    """

    @property
    def shape(self) -> torch.Size:
        """``(out, in)``."""

    @property
    def count(self) -> int:
        """The number of entries."""

    @property
    def device(self) -> torch.device:
        """Where the products are computed."""

    def positions(self) -> Tensor:
        """The row-major positions, sorted, int32 where they fit: ``(entries,)``."""

    def laid_out(self, rows: Tensor) -> Tensor:
        """The same matrix ``(batch, in or out)``, in memory as the products take it."""

    def operands(self, values: Tensor) -> tuple[Tensor, ...]:
        """What is built from the values ``(entries,)`` before a product, for it and for those of its gradients."""

    def product(self, input: Tensor, values: Tensor, operands: tuple[Tensor, ...], transposed: bool) -> Tensor:
        """``input @ weight.mT``, or ``input @ weight`` where transposed: ``(batch, out or in)``."""

    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        """``left.mT @ right`` at the entries: ``(entries,)`` from ``(batch, out)``, ``(batch, in)``."""


def entries_linear(input: Tensor, x: Tensor, bias: Tensor | None, entries: Entries) -> Tensor:
    """``F.linear(input, weight, bias)`` with the values of ``weight`` at its entries.

    Args:
        input: ``(*, in)``.
        x: The values, ``(entries,)``, in row-major order.
        bias: ``(out,)``, or None.
        entries: The places of the entries in the weight, ``(out, in)``.

    Returns:
        ``(*, out)``, in the dtype that `torch.nn.functional.linear` gives, also under autocast.
    """
    dtype = product_dtype(x)
    rows, values = rows_of(input).to(dtype), x.to(dtype)
    output = _product(entries.laid_out(rows), values, entries, False, _operands(x, values, entries))
    output = output if output.is_contiguous() else copied_transposed(output.mT)
    output = output if bias is None else output + bias.to(dtype)
    return as_own(output, (*input.shape[:-1], entries.shape[0]))


def _operands(x: Tensor, values: Tensor, entries: Entries) -> tuple[Tensor, ...]:
    """What the products multiply with; they build it themselves where a transform of `torch.func` is at work."""
    if are_transforms_active() or is_batched_by_autograd(values):
        return ()
    with torch.no_grad():
        return once(entries, x, lambda: entries.operands(values), values.dtype)


def _product(
    input: Tensor, values: Tensor, entries: Entries, transposed: bool, operands: tuple[Tensor, ...] = ()
) -> Tensor:
    if is_batched_by_autograd(input, values):
        return _dense_product(input, values, entries, transposed)
    return function_for(*PRODUCTS)(input, values, entries, transposed, operands)


def _sampled(left: Tensor, right: Tensor, entries: Entries) -> Tensor:
    if is_batched_by_autograd(left, right):
        return _dense_sampled(left, right, entries)
    return function_for(*SAMPLES)(left, right, entries)


class _Product(torch.autograd.Function):
    # Five arguments whatever the operands: torch.compile tells by their number whether `forward` takes the context.
    @staticmethod
    def forward(
        input: Tensor, values: Tensor, entries: Entries, transposed: bool, operands: tuple[Tensor, ...]
    ) -> Tensor:
        return entries.product(input, values, operands or entries.operands(values), transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        input, values, ctx.entries, ctx.transposed, operands = inputs
        ctx.save_for_backward(input, values, *operands)
        ctx.save_for_forward(input, values, *operands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, values, *operands = map(torch.conj, ctx.saved_tensors)  # of a real tensor, itself
        for_input, for_values, *_ = ctx.needs_input_grad
        went_backward()
        grad = ctx.entries.laid_out(grad)
        left, right = (input, grad) if ctx.transposed else (grad, input)
        back = (grad, values, ctx.entries, not ctx.transposed, tuple(operands))
        grad_input = _product(*back) if for_input else None
        grad_values = _sampled(left, right, ctx.entries) if for_values else None
        return grad_input, grad_values, None, None, None


class _TransformedProduct(_Product):
    """With what `torch.func` needs and `torch.compile` does not trace."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (input, values, *_), (along_input, along_values, *_) = ctx.saved_tensors, tangents  # zeros where there is none
        by_input = _dense_product(along_input, values, ctx.entries, ctx.transposed)
        along = by_input + _dense_product(input, along_values, ctx.entries, ctx.transposed)
        laid_out: Tensor = ctx.entries.laid_out(along)  # as the output is
        return laid_out

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        input, values, entries, transposed, *_ = arguments
        dense = torch.vmap(
            lambda i, v: _dense_product(i, v, entries, transposed), in_dims[:2], randomness=info.randomness
        )
        return dense(input, values), 0


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(left: Tensor, right: Tensor, entries: Entries) -> Tensor:
        return entries.sampled(left, right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.entries = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = map(torch.conj, ctx.saved_tensors)
        for_left, for_right, *_ = ctx.needs_input_grad
        grad_left = _product(right, grad, ctx.entries, False) if for_left else None
        grad_right = _product(left, grad, ctx.entries, True) if for_right else None
        return grad_left, grad_right, None


class _TransformedSampled(_Sampled):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (left, right), (along_left, along_right, *_) = ctx.saved_tensors, tangents
        return _dense_sampled(along_left, right, ctx.entries) + _dense_sampled(left, along_right, ctx.entries)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        left, right, entries = arguments
        dense = torch.vmap(lambda a, b: _dense_sampled(a, b, entries), in_dims[:2], randomness=info.randomness)
        return dense(left, right), 0


PRODUCTS = _Product, _TransformedProduct, eager_form(_TransformedProduct)
SAMPLES = _Sampled, _TransformedSampled, eager_form(_TransformedSampled)


def _dense_product(input: Tensor, values: Tensor, entries: Entries, transposed: bool) -> Tensor:
    flat = values.new_zeros(entries.shape.numel()).scatter(0, entries.positions().long(), values)
    weight = flat.view(entries.shape)
    return input @ (weight if transposed else weight.mT)


def _dense_sampled(left: Tensor, right: Tensor, entries: Entries) -> Tensor:
    return (left.mT @ right).reshape(entries.shape.numel()).index_select(0, entries.positions())
