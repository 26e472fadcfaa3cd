"""The product with a sparse matrix at the cost of its entries, and every derivative of it.

Two functions are each other's derivative: the product with the matrix or its transpose, and the outer
product sampled at the matrix's entries. So every order of differentiation costs what the entries cost.

Some CPUs add the terms of each sum one after another, where a dense product adds blocks of them: for long rows the
mean error is then larger than the dense product's, but never larger than that of such a plain sum.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from parametrizations._products.operands import rows_of
from parametrizations._products.pattern import Pattern
from parametrizations._products.transposed import transposed
from parametrizations._torch.private import as_own
from parametrizations._torch.transforms import eager_form, function_for, is_batched_by_autograd, is_recorded

__all__ = ["prepare", "sparse_linear"]


def sparse_linear(input: Tensor, values: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """``F.linear(input, weight, bias)`` with the values of ``weight`` at the pattern's entries.

    Args:
        input: ``(*, in)``.
        values: ``(entries,)``, in row-major order.
        bias: ``(out,)``, or None.
        pattern: The places of the entries in the weight, ``(out, in)``.

    Returns:
        ``(*, out)``.
    """
    output = transposed(_product(_by_columns(rows_of(input)), values, pattern, False).mT)
    output = output if bias is None else output + bias
    return as_own(output, (*input.shape[:-1], pattern.shape[0]))


def _by_columns(rows: Tensor) -> Tensor:
    """The same matrix with its columns together in memory: what every product here would copy it to."""
    return transposed(rows).mT


def _product(input: Tensor, values: Tensor, pattern: Pattern, transposed: bool) -> Tensor:
    """``input @ weight.mT``, or ``input @ weight`` where transposed: ``(batch, out or in)``."""
    if is_batched_by_autograd(input, values):
        return _dense_product(input, values, pattern, transposed)
    return function_for(*PRODUCTS)(input, values, pattern, transposed)


def _sampled(left: Tensor, right: Tensor, pattern: Pattern) -> Tensor:
    """``left.mT @ right`` at the pattern's entries: ``(entries,)`` from ``(batch, out)``, ``(batch, in)``."""
    if is_batched_by_autograd(left, right):
        return _dense_sampled(left, right, pattern)
    return function_for(*SAMPLES)(left, right, pattern)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, values: Tensor, pattern: Pattern, transposed: bool) -> Tensor:
        if transposed:
            values = values.index_select(0, pattern.order)
        rows, out_features = (
            pattern.by_columns if transposed else pattern.by_rows,
            pattern.shape[int(transposed)],
        )
        multiply = csr_product if is_recorded() else _csr_product
        return multiply(input, values, rows.starts, rows.columns, out_features)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.pattern, ctx.transposed = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, values = ctx.saved_tensors
        for_input, for_values, *_ = ctx.needs_input_grad
        grad = _by_columns(grad)
        left, right = (input, grad) if ctx.transposed else (grad, input)
        grad_input = _product(grad, values, ctx.pattern, not ctx.transposed) if for_input else None
        grad_values = _sampled(left, right, ctx.pattern) if for_values else None
        return grad_input, grad_values, None, None


class _TransformedProduct(_Product):
    """With what `torch.func` needs and `torch.compile` does not trace."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        input, values = ctx.saved_tensors
        along = _bilinear(lambda i, v: _dense_product(i, v, ctx.pattern, ctx.transposed), (input, values), tangents[:2])
        return _by_columns(along)  # laid out as the output is

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        input, values, pattern, transposed = arguments
        dense = torch.vmap(
            lambda i, v: _dense_product(i, v, pattern, transposed), in_dims[:2], randomness=info.randomness
        )
        return dense(input, values), 0


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(left: Tensor, right: Tensor, pattern: Pattern) -> Tensor:
        sample = csr_sampled if is_recorded() else _csr_sampled
        return sample(left, right, pattern.by_rows.starts, pattern.by_rows.columns)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.pattern = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        for_left, for_right, *_ = ctx.needs_input_grad
        grad_left = _product(right, grad, ctx.pattern, False) if for_left else None
        grad_right = _product(left, grad, ctx.pattern, True) if for_right else None
        return grad_left, grad_right, None


class _TransformedSampled(_Sampled):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _bilinear(lambda a, b: _dense_sampled(a, b, ctx.pattern), ctx.saved_tensors, tangents[:2])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        left, right, pattern = arguments
        dense = torch.vmap(lambda a, b: _dense_sampled(a, b, pattern), in_dims[:2], randomness=info.randomness)
        return dense(left, right), 0


PRODUCTS = _Product, _TransformedProduct, eager_form(_TransformedProduct)
SAMPLES = _Sampled, _TransformedSampled, eager_form(_TransformedSampled)


def _bilinear(function: Any, point: tuple[Tensor, Tensor], tangents: tuple[Tensor | None, ...]) -> Tensor:
    """The derivative of a bilinear function along tangents, at least one of which is there."""
    (one, other), (along_one, along_other) = point, tangents
    parts = [] if along_one is None else [function(along_one, other)]
    parts += [] if along_other is None else [function(one, along_other)]
    total: Tensor = sum(parts[1:], start=parts[0])
    return total


def _dense_product(input: Tensor, values: Tensor, pattern: Pattern, transposed: bool) -> Tensor:
    flat = values.new_zeros(pattern.shape.numel()).scatter(0, pattern.positions(), values)
    weight = flat.view(pattern.shape)
    return input @ (weight if transposed else weight.mT)


def _dense_sampled(left: Tensor, right: Tensor, pattern: Pattern) -> Tensor:
    return (left.mT @ right).reshape(-1).index_select(0, pattern.positions())


def _csr_product(input: Tensor, values: Tensor, starts: Tensor, columns: Tensor, out_features: int) -> Tensor:
    matrix = _csr(starts, columns, values, (out_features, input.shape[1]))
    output = input.new_empty(out_features, input.shape[0])
    return torch.mm(matrix, transposed(input), out=output).mT  # twice as fast as without `out`


def _csr_sampled(left: Tensor, right: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    # Zeros, not the values: sampled_addmm multiplies them by beta = 0, which keeps NaN.
    zeros = left.new_zeros(columns.shape)
    pattern = _csr(starts, columns, zeros, (left.shape[1], right.shape[1]))
    sampled: Tensor = torch.sparse.sampled_addmm(pattern, left.mT, right, beta=0.0)
    return sampled.values()


@functools.cache
def prepare() -> None:
    """Make the first compressed tensor of the process, about which PyTorch warns once that it is in beta.

    Called when a pattern is made, not in a product: `warnings.catch_warnings` is not thread-safe.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        _csr(torch.tensor([0, 1], device="cpu"), torch.tensor([0], device="cpu"), torch.ones(1, device="cpu"), (1, 1))


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, size, device=values.device, check_invariants=False)


# Where operations are recorded the two products are opaque operators: sparse tensors cannot be traced or faked. No
# exported program has them, as the dense product is exported.
csr_product = torch.library.custom_op("parametrizations::csr_product", _csr_product, mutates_args=())
csr_sampled = torch.library.custom_op("parametrizations::csr_sampled", _csr_sampled, mutates_args=())


@csr_product.register_fake
def _(input: Tensor, values: Tensor, starts: Tensor, columns: Tensor, out_features: int) -> Tensor:  # noqa: ARG001
    return input.new_empty(out_features, input.shape[0]).mT


@csr_sampled.register_fake
def _(left: Tensor, right: Tensor, starts: Tensor, columns: Tensor) -> Tensor:  # noqa: ARG001
    return left.new_empty(columns.shape)


@register_flop_formula([torch.ops.parametrizations.csr_product, torch.ops.parametrizations.csr_sampled])
def _(left: torch.Size, _: torch.Size, starts: torch.Size, columns: torch.Size, *__: Any, **___: Any) -> int:  # noqa: ARG001
    return 2 * left[0] * columns[0]  # for each row of the batch and each entry, a multiplication and an addition
