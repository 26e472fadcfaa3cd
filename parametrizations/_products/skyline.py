"""`Skyline`: where a matrix with structure has its entries, as strips of rows that dense products multiply.

Each strip multiplies only the columns between its first and its last entry, from a buffer that its own slice of the
values is written into. So the cost follows the envelope: blocks, bands, triangles, nested masks. It needs no sparse
kernel, so it works in every dtype and on every device, and each output is one dense sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from parametrizations._products.accumulate import add_product
from parametrizations._products.csr import index_dtype
from parametrizations._products.envelope import Order, Window
from parametrizations._torch.transforms import is_recorded

__all__ = ["Skyline"]


class Strip(NamedTuple):
    """Where one strip has its entries.

    Args:
        window: Its rows and columns.
        start: The place of its first value among all.
        entries: The number of its values.
        places: The row-major place of each of them in the window; None where they fill it.
    """

    window: Window
    start: int
    entries: int
    places: Tensor | None


class Sorting(NamedTuple):
    """Another order of rows and columns, both ways, and the values' order by their place in it."""

    rows: Tensor
    rows_back: Tensor
    columns: Tensor
    columns_back: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Skyline:
    """The places of the entries of a matrix ``(out, in)``, by strips.

    An entry costs 12 bytes: its position, its place in a strip, and where these are sorted its place among the values.
    Where they are not, one of the first two has 8, since what is written to need not be converted then.

    Args:
        shape: ``(out, in)``.
        kept: The entries' row-major positions, sorted: ``(entries,)``.
        strips: From the first row to the last.
        sorting: None where the strips follow the matrix's own order.
    """

    shape: torch.Size
    kept: Tensor
    strips: tuple[Strip, ...]
    sorting: Sorting | None

    @classmethod
    def of(
        cls, shape: torch.Size, positions: Tensor, windows: list[Window], order: Order | None, *, dense_too: bool
    ) -> Self:
        """The strips of a matrix with the given sorted positions, in another order of its rows and columns or not.

        ``dense_too`` says that the dense product is used for small batches.
        """
        rows, columns = positions.cpu().long() // max(shape[1], 1), positions.cpu().long() % max(shape[1], 1)
        sorting = None
        if order is not None:
            rows, columns = order.rows.argsort()[rows], order.columns.argsort()[columns]
            by_place = (rows * shape[1] + columns).argsort()
            rows, columns = rows[by_place], columns[by_place]
            sorting = _sorting(order, by_place, positions.device)
        of_positions = torch.long if dense_too and order is None else index_dtype(shape.numel())
        of_places = torch.long if not dense_too and order is None else torch.int32
        strips = tuple(_strip(window, rows, columns, positions.device, of_places) for window in windows)
        return cls(shape, positions.to(of_positions), strips, sorting)

    @property
    def count(self) -> int:
        return self.kept.numel()

    @property
    def device(self) -> torch.device:
        return self.kept.device

    def positions(self) -> Tensor:
        return self.kept

    def laid_out(self, rows: Tensor) -> Tensor:
        return rows

    def operands(self, values: Tensor) -> tuple[Tensor, ...]:
        """The strips' buffers."""
        if self.sorting is not None:
            values = values.index_select(0, self.sorting.values)
        return tuple(_filled(strip, values) for strip in self.strips)

    def product(self, input: Tensor, values: Tensor, operands: tuple[Tensor, ...], transposed: bool) -> Tensor:  # noqa: ARG002
        if self.sorting is not None:
            input = input.index_select(1, self.sorting.rows if transposed else self.sorting.columns)
        output = self._onto_columns(input, operands) if transposed else self._onto_rows(input, operands)
        if self.sorting is not None:
            output = output.index_select(1, self.sorting.columns_back if transposed else self.sorting.rows_back)
        return output

    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        if self.sorting is None:
            return self._sampled(left, right)
        sampled = self._sampled(left.index_select(1, self.sorting.rows), right.index_select(1, self.sorting.columns))
        return torch.empty_like(sampled).index_copy_(0, self.sorting.values.long(), sampled)

    def _onto_rows(self, input: Tensor, buffers: tuple[Tensor, ...]) -> Tensor:
        parts = [
            (_columns_of(input, strip.window), buffer.mT) for strip, buffer in zip(self.strips, buffers, strict=True)
        ]
        if is_recorded():
            return torch.cat([one @ other for one, other in parts], 1)
        output = input.new_empty(input.shape[0], self.shape[0])
        for strip, (one, other) in zip(self.strips, parts, strict=True):
            torch.mm(one, other, out=_rows_of(output, strip.window))
        return output

    def _onto_columns(self, grad: Tensor, buffers: tuple[Tensor, ...]) -> Tensor:
        wide = torch.float32 if grad.dtype.itemsize == 2 else grad.dtype  # strips overlap: round their sum once
        output = grad.new_zeros(grad.shape[0], self.shape[1], dtype=wide)
        for strip, buffer in zip(self.strips, buffers, strict=True):
            add_product(_columns_of(output, strip.window), _rows_of(grad, strip.window), buffer)
        return output.to(grad.dtype)

    def _sampled(self, left: Tensor, right: Tensor) -> Tensor:
        parts = [(_rows_of(left, strip.window).mT, _columns_of(right, strip.window)) for strip in self.strips]
        if is_recorded():
            pairs = zip(self.strips, parts, strict=True)
            return torch.cat([_taken(strip, one @ other) for strip, (one, other) in pairs])
        values = left.new_empty(self.count)
        for strip, (one, other) in zip(self.strips, parts, strict=True):
            _write_taken(values.narrow(0, strip.start, strip.entries), strip, one, other)
        return values


def _sorting(order: Order, by_place: Tensor, device: torch.device) -> Sorting:
    every = (order.rows, order.rows.argsort(), order.columns, order.columns.argsort(), by_place)
    return Sorting(*(one.to(device, index_dtype(max(one.numel(), 1))) for one in every))


def _strip(window: Window, rows: Tensor, columns: Tensor, device: torch.device, dtype: torch.dtype) -> Strip:
    start, stop = torch.searchsorted(rows, torch.tensor([window.row, window.row + window.rows], device="cpu")).tolist()
    if stop - start == window.rows * window.columns:
        return Strip(window, start, stop - start, None)
    places = (rows[start:stop] - window.row) * window.columns + columns[start:stop] - window.column
    largest = index_dtype(window.rows * window.columns)
    return Strip(window, start, stop - start, places.to(device, max(dtype, largest, key=lambda kind: kind.itemsize)))


def _rows_of(tensor: Tensor, window: Window) -> Tensor:
    """The columns of ``(batch, out)`` that belong to the rows of the strip."""
    return tensor.narrow(1, window.row, window.rows)


def _columns_of(tensor: Tensor, window: Window) -> Tensor:
    return tensor.narrow(1, window.column, window.columns)


def _filled(strip: Strip, values: Tensor) -> Tensor:
    """The strip's part of the weight."""
    _, rows, _, columns = strip.window
    values = values.narrow(0, strip.start, strip.entries)
    if strip.places is None:
        return values.view(rows, columns)
    return values.new_zeros(rows * columns).index_copy(0, strip.places.long(), values).view(rows, columns)


def _taken(strip: Strip, matrix: Tensor) -> Tensor:
    return matrix.flatten() if strip.places is None else matrix.flatten().index_select(0, strip.places)


def _write_taken(values: Tensor, strip: Strip, one: Tensor, other: Tensor) -> None:
    """``one @ other`` at the strip's places, into its part of the values; in their dtype, under autocast too."""
    size = strip.window.rows, strip.window.columns
    full = values.view(size) if strip.places is None else values.new_empty(size)
    torch.mm(one, other, out=full)
    if strip.places is not None:
        torch.index_select(full.view(-1), 0, strip.places, out=values)
