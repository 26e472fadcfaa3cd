"""`Form`: the layout of the stored entries of a weight, and the product with it.

Most forms are a `Kernel`, with three methods: the dense weight, the product with the weight, and the product of two
batches, sampled at the stored entries. The last two are derivatives of each other, so one pair of autograd functions
gives the derivatives of every kernel, to any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from parametrizations._products.dense import require_memory, scattered
from parametrizations._products.operands import product_dtype, rows_of, transposed_copy
from parametrizations._torch.loops import once
from parametrizations._torch.private import as_own, is_traced
from parametrizations._torch.transforms import (
    eager_form,
    function_for,
    is_differentiated,
    is_recorded,
    needs_plain_autograd,
)


class Form(ABC):
    """A layout of the stored entries of a weight. It is immutable, so derived data cannot become stale."""

    shape: torch.Size
    """The shape of the weight, ``(out, in)``."""

    @abstractmethod
    def dense(self, values: Tensor) -> Tensor:
        """The weight ``(out, in)``, from its stored values."""

    @abstractmethod
    def entries(self, weight: Tensor) -> Tensor:
        """The stored values of a dense weight: the inverse of `dense`."""

    def multiply(self, input: Tensor, values: Tensor) -> Tensor:
        """``input @ weight.mT``, differentiable. Most forms compute this without the dense weight."""
        return input @ self.dense(values).mT

    def laid_out(self, rows: Tensor) -> Tensor:
        """The rows ``(batch, features)`` in the memory layout that the products use without a copy."""
        return rows


class Kernel(Form):
    """A form that defines `product` and its derivative, `sampled`."""

    @abstractmethod
    def product(self, input: Tensor, values: Tensor, transposed: bool) -> Tensor:
        """``input @ weight.mT``, ``(batch, out)``; if ``transposed``, ``input @ weight``, ``(batch, in)``."""

    @abstractmethod
    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        """``left.mT @ right`` at the stored entries, for ``(batch, out)`` and ``(batch, in)``; shaped as ``values``."""

    @override
    def multiply(self, input: Tensor, values: Tensor) -> Tensor:
        return product(input, values, self)


class MaskForm(Form):
    """The layout of a weight with a mask: the stored values are the kept entries in row-major order."""

    positions: Tensor
    """The sorted row-major positions of the kept entries, ``(entries,)``."""

    @property
    def device(self) -> torch.device:
        """The device of the mask, read in every forward pass. A form that computes its positions overrides this."""
        return self.positions.device

    @override
    def dense(self, values: Tensor) -> Tensor:
        places = self.positions.to(values.device, torch.long)
        return scattered(values, places, self.shape.numel()).view(self.shape)

    @override
    def entries(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.shape.numel()).index_select(0, self.positions.to(weight.device))


@dataclass(frozen=True, eq=False)
class Dense(MaskForm):
    """A mask with the dense product.

    Args:
        sizes: The shape of the weight as integers: `Tensor.view` takes 3 microseconds longer with a `torch.Size`.
        count: The number of entries of the weight.
        positions: The sorted row-major positions, ``(entries,)``, int64, because ``scatter`` needs int64.
    """

    sizes: tuple[int, ...]
    count: int
    positions: Tensor

    @classmethod
    def of(cls, shape: torch.Size, positions: Tensor) -> Self:
        """The form of a mask with these sorted row-major positions, for a weight with any number of dimensions."""
        return cls(tuple(shape), shape.numel(), positions.long())

    @property
    @override
    def shape(self) -> torch.Size:  # type: ignore[override]
        return torch.Size(self.sizes)

    def fits(self, x: Tensor) -> bool:
        """Whether ``x`` is a parameter with the shape and device of the positions, so that it needs no other check."""
        if is_traced():  # sizes are tensors under a tracer
            return False
        places = self.positions
        return type(x) is nn.Parameter and x.shape == places.shape and x.device == places.device

    @override
    def dense(self, values: Tensor) -> Tensor:
        return scattered(values, self.positions, self.count).view(*self.sizes)


def form_linear(input: Tensor, x: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """``F.linear(input, form.dense(x), bias)``, by the product of the form.

    Returns:
        ``(*, out)``, in the dtype that `torch.nn.functional.linear` gives, also under autocast.
    """
    dtype = product_dtype(x)
    rows, values = rows_of(input), x
    if dtype is not x.dtype or dtype is not input.dtype:
        rows, values = rows.to(dtype), once((form, dtype), x, lambda: x.to(dtype))
    output = form.multiply(form.laid_out(rows), values)
    output = output if output.is_contiguous() else transposed_copy(output.mT)
    if bias is None:
        return as_own(output, (*input.shape[:-1], form.shape[0]))
    output = output + (bias if bias.dtype is dtype else bias.to(dtype))
    return output if input.dim() == 2 else as_own(output, (*input.shape[:-1], form.shape[0]))


def product(input: Tensor, values: Tensor, form: Kernel, transposed: bool = False) -> Tensor:
    """`Kernel.product`, differentiable to every order."""
    if needs_plain_autograd(form.shape.numel(), input, values):
        weight = form.dense(values)
        return input @ (weight if transposed else weight.mT)
    return function_for(*PRODUCTS)(input, values, form, transposed)


def sampled(left: Tensor, right: Tensor, form: Kernel) -> Tensor:
    """`Kernel.sampled`, differentiable to every order."""
    if needs_plain_autograd(form.shape.numel(), left, right):
        require_memory("The derivative", form.shape.numel(), left)
        return form.entries(left.mT @ right)
    return function_for(*SAMPLES)(left, right, form)


def sum_of_products(parts: Iterable[tuple[int, int, Tensor]], input: Tensor, features: int, transposed: bool) -> Tensor:
    """``input @ matrix.mT``, or ``input @ matrix`` if transposed, for a matrix given in parts.

    Half precision is summed in float32 and rounded once.

    Args:
        parts: For each part its first row, its first column, and its entries as a matrix. Parts do not overlap; all
            other entries of the whole matrix are 0.
        input: ``(batch, in)``, or ``(batch, out)`` if transposed.
        features: The number of columns of the result.
        transposed: As in `Kernel.product`.
    """
    wide = torch.float32 if input.dtype.itemsize == 2 else input.dtype
    output = input.new_zeros(input.shape[0], features, dtype=wide)
    for row, column, part in parts:
        begin, right, place = (row, part, column) if transposed else (column, part.mT, row)
        left, right = input.narrow(1, begin, right.shape[0]).to(wide), right.to(wide)
        target = output.narrow(1, place, right.shape[1])
        if is_recorded():  # `FlopCounterMode` does not know `addmm_`
            target.add_(left @ right)
        else:
            target.addmm_(left, right)
    return output.to(input.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, values: Tensor, form: Kernel, transposed: bool) -> Tensor:
        return form.product(input, values, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.form, ctx.transposed = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, values = map(torch.conj, ctx.saved_tensors)  # a real tensor is its own conjugate
        grad = ctx.form.laid_out(grad)
        left, right = (input, grad) if ctx.transposed else (grad, input)
        again = is_differentiated(grad, input, values)
        multiply, sample = (product, sampled) if again else (_Product.forward, _Sampled.forward)
        grad_input = multiply(grad, values, ctx.form, not ctx.transposed) if ctx.needs_input_grad[0] else None
        grad_values = sample(left, right, ctx.form) if ctx.needs_input_grad[1] else None
        return grad_input, grad_values, None, None


class _TransformedProduct(_Product):
    """A `_Product` with ``jvp`` and ``vmap``: `torch.func` needs these methods, `torch.compile` cannot trace them."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        input, values = ctx.saved_tensors
        by_input = product(tangents[0], values, ctx.form, ctx.transposed)
        return by_input + product(input, tangents[1], ctx.form, ctx.transposed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        input, values, form, transposed = arguments
        if in_dims[1] is None:  # more rows for the same weight
            input = input.movedim(in_dims[0], 0)
            rows = product(form.laid_out(input.flatten(0, 1)), values, form, transposed)
            return rows.view(*input.shape[:2], rows.shape[1]), 0
        return _one_by_one(lambda i, v: product(form.laid_out(i), v, form, transposed), info, in_dims, input, values)


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(left: Tensor, right: Tensor, form: Kernel) -> Tensor:
        return form.sampled(left, right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.form = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        left, right = map(torch.conj, ctx.saved_tensors)
        grad_left = product(right, grad, ctx.form) if ctx.needs_input_grad[0] else None
        grad_right = product(left, grad, ctx.form, True) if ctx.needs_input_grad[1] else None
        return grad_left, grad_right, None


class _TransformedSampled(_Sampled):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        left, right = ctx.saved_tensors
        return sampled(tangents[0], right, ctx.form) + sampled(left, tangents[1], ctx.form)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        left, right, form = arguments
        return _one_by_one(lambda a, b: sampled(form.laid_out(a), form.laid_out(b), form), info, in_dims, left, right)


def _one_by_one(
    call: Callable[..., Tensor], info: Any, in_dims: tuple[int | None, ...], *batched: Tensor
) -> tuple[Tensor, int]:
    """The stacked results of one call for each element of the vmapped axis: a batched call would need dense weights."""
    if not info.batch_size:  # a call with zeros gives the shape
        one = call(
            *(
                x if at is None else x.new_zeros(x.movedim(at, 0).shape[1:])
                for x, at in zip(batched, in_dims, strict=False)
            )
        )
        return one.new_empty(0, *one.shape), 0
    split = [[x] * info.batch_size if at is None else x.unbind(at) for x, at in zip(batched, in_dims, strict=False)]
    return torch.stack([call(*each) for each in zip(*split, strict=True)]), 0


PRODUCTS = _Product, _TransformedProduct, eager_form(_TransformedProduct)
SAMPLES = _Sampled, _TransformedSampled, eager_form(_TransformedSampled)
