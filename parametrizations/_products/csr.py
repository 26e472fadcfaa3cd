"""`CSR`: an unstructured mask, as compressed sparse rows.

The cost depends on the number of entries, not on their positions. The kernels add the terms of each sum one after
another, whereas a dense product adds blocks of terms. So for long rows the mean error is larger than the error of the
dense product, but never larger than the error of a loop that adds one term at a time.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula
from typing_extensions import override

from parametrizations._products.form import Kernel, MaskForm
from parametrizations._products.operands import index_dtype, transposed_copy
from parametrizations._torch.transforms import is_recorded

HAS_MKL = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]

SHORT = 2**15
"""Up to this number of columns, the column indices are sorted as int16, which is faster."""


class Rows(NamedTuple):
    """``starts``: the number of entries before each row, then their total. ``columns``: the column of each entry."""

    starts: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class CSR(MaskForm, Kernel):
    """The positions of the kept entries of a matrix ``(out, in)``, by rows and by columns.

    A position takes 12 bytes (24 from 2^31 entries, rows or columns on): column, row, and place in the order by rows.

    Args:
        shape: ``(out, in)``.
        by_rows: The compressed rows.
        by_columns: The compressed rows of the transposed matrix.
        order: For each entry in the order by columns, its place in the order by rows: ``(entries,)``.
    """

    shape: torch.Size
    by_rows: Rows
    by_columns: Rows
    order: Tensor

    @classmethod
    def of(cls, shape: torch.Size, positions: Tensor) -> Self:
        """A `CSR` object for the mask that keeps the given row-major positions, sorted: ``(entries,)``."""
        _prepare()
        dtype = index_dtype(max(positions.numel(), *shape))
        columns = (positions % shape[1]).to(dtype)
        by_columns = columns.to(torch.int16 if shape[1] <= SHORT else dtype).sort(stable=True)
        order, starts = by_columns.indices.to(dtype), _starts(by_columns.values.to(dtype), shape[1])
        del by_columns  # frees memory before `rows` is allocated
        rows = torch.div(positions, shape[1], rounding_mode="floor").to(dtype)
        return cls(
            shape,
            Rows(_starts(rows, shape[0]), columns),
            Rows(starts, rows.index_select(0, order)),
            order,
        )

    @property
    @override
    def device(self) -> torch.device:
        return self.order.device

    @property
    @override
    def positions(self) -> Tensor:  # type: ignore[override]
        """The sorted row-major positions, ``(entries,)``, computed by operators that ONNX supports."""
        rows = torch.zeros_like(self.order).scatter(0, self.order.long(), self.by_columns.columns)
        return rows.to(index_dtype(self.shape.numel())).mul(self.shape[1]).add_(self.by_rows.columns)

    @override
    def laid_out(self, rows: Tensor) -> Tensor:
        return transposed_copy(rows).mT  # MKL takes column-major operands

    @override
    def product(self, input: Tensor, values: Tensor, transposed: bool) -> Tensor:
        if transposed:
            values = values.index_select(0, self.order)
        rows = self.by_columns if transposed else self.by_rows
        multiply = csr_product if is_recorded() else _csr_product
        return multiply(input, values, rows.starts, rows.columns, self.shape[int(transposed)])

    @override
    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        sample = csr_sampled if is_recorded() else _csr_sampled
        return sample(left, right, self.by_rows.starts, self.by_rows.columns)


def csr_tensor(shape: torch.Size, positions: Tensor, values: Tensor) -> Tensor:
    """A `torch.sparse_csr` tensor with values at sorted row-major positions."""
    _prepare()
    dtype = index_dtype(max(positions.numel(), *shape))
    rows = torch.div(positions, shape[1], rounding_mode="floor").to(dtype)
    return _csr(_starts(rows, shape[0]), (positions % shape[1]).to(dtype), values, (shape[0], shape[1]))


def _starts(rows: Tensor, count: int) -> Tensor:
    """For each number from 0 to ``count``: how many of the sorted ``rows`` are smaller."""
    every = torch.arange(count + 1, device=rows.device, dtype=rows.dtype)
    return torch.searchsorted(rows, every, out_int32=rows.dtype is torch.int32)


def _csr_product(input: Tensor, values: Tensor, starts: Tensor, columns: Tensor, out_features: int) -> Tensor:
    matrix = _csr(starts, columns, values, (out_features, input.shape[1]))
    if not HAS_MKL:
        product: Tensor = torch.sparse.mm(matrix, transposed_copy(input), reduce="sum")
        return product.mT
    output = input.new_empty(out_features, input.shape[0])
    return torch.mm(matrix, transposed_copy(input), out=output).mT  # twice as fast as without `out`


def _csr_sampled(left: Tensor, right: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    # Zeros, not uninitialised values: sampled_addmm multiplies the values by beta = 0, which keeps NaN.
    sampled = left.new_zeros(columns.shape)
    pattern = _csr(starts, columns, sampled, (left.shape[1], right.shape[1]))
    torch.sparse.sampled_addmm(pattern, left.mT, right, beta=0.0, out=pattern)  # without `out` it copies `sampled`
    return sampled


@functools.cache
def _prepare() -> None:
    """Create the first CSR tensor of the process, and hide PyTorch's warning that CSR is in beta.

    Call this when a form is made, not in a product, because `warnings.catch_warnings` is not thread-safe.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        _csr(torch.tensor([0, 1], device="cpu"), torch.tensor([0], device="cpu"), torch.ones(1, device="cpu"), (1, 1))


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, size, device=values.device, check_invariants=False)


# Where `is_recorded` is true, the two products are opaque operators, since sparse tensors cannot be traced or faked.
# Exported programs never contain these operators, because export uses the dense product.
csr_product = torch.library.custom_op("parametrizations::csr_product", _csr_product, mutates_args=())
csr_sampled = torch.library.custom_op("parametrizations::csr_sampled", _csr_sampled, mutates_args=())


@csr_product.register_fake
def _(input: Tensor, values: Tensor, starts: Tensor, columns: Tensor, out_features: int) -> Tensor:  # noqa: ARG001
    return input.new_empty(out_features, input.shape[0]).mT


@csr_sampled.register_fake
def _(left: Tensor, right: Tensor, starts: Tensor, columns: Tensor) -> Tensor:  # noqa: ARG001
    return left.new_empty(columns.shape)


@register_flop_formula([torch.ops.parametrizations.csr_product, torch.ops.parametrizations.csr_sampled])
def _(left: torch.Size, _: torch.Size, __: torch.Size, columns: torch.Size, *___: Any, **____: Any) -> int:
    return 2 * left[0] * columns[0]  # a multiplication and an addition for each batch row and entry
