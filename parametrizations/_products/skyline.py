"""`Skyline`: where a matrix with structure has its entries, as strips of rows that dense products multiply.

Each strip multiplies only the columns between its first and its last entry, from a buffer that its own slice of the
values is written into. So the cost follows the envelope: blocks, bands, triangles, nested masks. It needs no sparse
kernel, so it works in every dtype and on every device, and each output is one dense sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from parametrizations._products.accumulate import add_product
from parametrizations._products.csr import index_dtype
from parametrizations._products.envelope import Order, Window, is_natural
from parametrizations._products.panel import LARGEST, Panel, Strip, grouped, in_buffer
from parametrizations._torch.transforms import is_recorded

__all__ = ["Skyline"]


class Sorting(NamedTuple):
    """Another order of features, and the way back from it."""

    there: Tensor
    back: Tensor

    @classmethod
    def of(cls, order: Tensor, device: torch.device) -> Self | None:
        """None where each stays where it is."""
        if is_natural(order):
            return None
        dtype = index_dtype(order.numel())
        return cls(order.to(device, dtype), order.argsort().to(device, dtype))


@dataclass(frozen=True, eq=False)
class Skyline:
    """The places of the entries of a matrix ``(out, in)``, by strips.

    An entry costs at most 12 bytes: its position and its place in a strip, of which one has 8 where it is written by,
    or less than 4 for how they are copied together.

    Args:
        shape: ``(out, in)``.
        kept: The entries' row-major positions, sorted: ``(entries,)``.
        panels: The strips from the first row to the last, some in each.
        of_rows: Another order of the rows, that is of the outputs, which the strips follow; None for their own.
        of_columns: The same for the columns, that is for the inputs.
    """

    shape: torch.Size
    kept: Tensor
    panels: tuple[Panel, ...]
    of_rows: Sorting | None
    of_columns: Sorting | None

    @classmethod
    def of(
        cls, shape: torch.Size, positions: Tensor, windows: list[Window], order: Order | None, *, rarely: bool
    ) -> Self:
        """The strips of a matrix with the given sorted positions, in another order of its rows and columns or not.

        ``rarely`` says that the dense product is used for small batches.
        """
        places = positions.cpu().long()
        rows, columns = places // shape[1], places % shape[1]
        if order is not None:
            rows, columns = order.rows.argsort()[rows], order.columns.argsort()[columns]
        groups = grouped(windows, LARGEST) if order is None else [windows]  # a strip's values lie together, or not
        heads = torch.tensor([group[0].row for group in groups[1:]], dtype=torch.long, device="cpu")
        cuts = [0, *torch.searchsorted(rows, heads).tolist(), rows.numel()]
        panels = tuple(
            _panel(group, first, rows[first:stop], columns[first:stop], positions.device, rarely=rarely)
            for group, (first, stop) in zip(groups, pairwise(cuts), strict=True)
        )
        if order is None:
            return cls(shape, positions, panels, None, None)
        return cls(shape, positions, panels, *(Sorting.of(one, positions.device) for one in order))

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

    @property
    def strips(self) -> tuple[Strip, ...]:
        """From the first row to the last."""
        return tuple(strip for panel in self.panels for strip in panel.strips)

    @property
    def has_runs(self) -> bool:
        """Whether windows bring values to the places of a panel."""
        return any(panel.spread is not None and panel.spread.runs is not None for panel in self.panels)

    def operands(self, values: Tensor) -> tuple[Tensor, ...]:
        """The strips' parts of the weight."""
        return tuple(part for panel in self.panels for part in panel.filled(values))

    def product(self, input: Tensor, values: Tensor, operands: tuple[Tensor, ...], transposed: bool) -> Tensor:  # noqa: ARG002
        if transposed:
            return _back(self._onto_columns(_there(input, self.of_rows), operands), self.of_columns)
        return _back(self._onto_rows(_there(input, self.of_columns), operands), self.of_rows)

    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = _there(left, self.of_rows), _there(right, self.of_columns)
        if is_recorded():
            return torch.cat([_taken(panel, left, right) for panel in self.panels])
        values = left.new_empty(self.count)
        for panel in self.panels:
            _write_taken(panel.own(values), panel, left, right)
        return values

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


def _there(features: Tensor, sorting: Sorting | None) -> Tensor:
    """``(batch, features)`` in the order of the strips."""
    return features if sorting is None else features.index_select(1, sorting.there)


def _back(features: Tensor, sorting: Sorting | None) -> Tensor:
    return features if sorting is None else features.index_select(1, sorting.back)


def _panel(
    windows: list[Window], first: int, rows: Tensor, columns: Tensor, device: torch.device, *, rarely: bool
) -> Panel:
    """The panel of windows that follow one another, for the entries in their rows, the first of all in a place."""
    strips = in_buffer(windows)
    starts = torch.cat([_starts(strip) for strip in strips])  # where column 0 of each row would be in the buffer
    places = starts[rows - windows[0].row] + columns
    return Panel.of(strips, first, places.to(device), rarely=rarely)


def _starts(strip: Strip) -> Tensor:
    window, start = strip
    return torch.arange(window.rows, device="cpu") * window.columns + start - window.column


def _rows_of(tensor: Tensor, window: Window) -> Tensor:
    """The columns of ``(batch, out)`` that belong to the rows of the strip."""
    return tensor.narrow(1, window.row, window.rows)


def _columns_of(tensor: Tensor, window: Window) -> Tensor:
    return tensor.narrow(1, window.column, window.columns)


def _taken(panel: Panel, left: Tensor, right: Tensor) -> Tensor:
    parts = [_rows_of(left, window).mT @ _columns_of(right, window) for window, _ in panel.strips]
    buffer = torch.cat([part.flatten() for part in parts])
    return buffer if panel.spread is None else panel.spread.values(buffer)


def _write_taken(values: Tensor, panel: Panel, left: Tensor, right: Tensor) -> None:
    """``left.mT @ right`` at the panel's places, into its part of the values; in their dtype, under autocast too."""
    buffer = values if panel.spread is None else values.new_empty(panel.spread.size)
    for window, part in panel.parts(buffer):
        torch.mm(_rows_of(left, window).mT, _columns_of(right, window), out=part)
    if panel.spread is not None:
        panel.spread.write_values(buffer, values)
