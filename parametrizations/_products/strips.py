"""Structured masks: dense products of strips of rows, each from its first to its last kept column.

The cost depends on the envelope of the mask (Jennings 1966; George and Liu, *Computer Solution of Large Sparse Positive
Definite Systems*, 1981, chapter 4), which is small for bands, triangles, blocks and staircases. Strips need no
sparse kernel, so they work in every dtype and on every device, and each output is one dense sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from parametrizations._products.dense import scattered
from parametrizations._products.form import Kernel, MaskForm, product, sum_of_products
from parametrizations._products.operands import index_dtype
from parametrizations._torch.loops import once
from parametrizations._torch.transforms import is_recorded

CALL = 6_000
"""The fixed cost of a strip, as a number of entries with the same cost."""
GROUPS = 128
"""Strips consist of whole groups of rows. This is the largest number of groups, which bounds the time of the search."""
LARGEST = 2**21
"""Largest buffer of several strips, in entries: 16 MB in float64. From 32 MB on, glibc maps new pages at each step."""


class Window(NamedTuple):
    """A strip: its first row, its number of rows, its first column, its number of columns."""

    row: int
    rows: int
    column: int
    columns: int

    @property
    def area(self) -> int:
        return self.rows * self.columns


def windows(shape: torch.Size, positions: Tensor, most: float = inf) -> list[Window]:
    """The cheapest strips that cover a mask, by dynamic programming: strips end where a group of rows ends.

    Args:
        shape: ``(out, in)``.
        positions: The sorted row-major positions of the mask, on the CPU.
        most: If even the smallest cover, one strip for each group of rows, has more entries than this, the list is
            empty. This saves the search, which would take milliseconds.
    """
    if not positions.numel():
        return [Window(0, shape[0], 0, 0)]
    ends, firsts, lasts = _groups(shape, positions)
    sizes = zip(pairwise(ends), firsts, lasts, strict=True)
    if sum((end - start) * max(last - first, 0) for (start, end), first, last in sizes) > most:
        return []
    best, cuts = [0.0], [0]
    for end in range(1, len(ends)):
        first, last, cost, cut = shape[1], 0, inf, 0
        for start in range(end - 1, -1, -1):
            first, last = min(first, firsts[start]), max(last, lasts[start])
            here = best[start] + CALL + (ends[end] - ends[start]) * max(last - first, 0)
            cost, cut = min((cost, cut), (here, start))
        best.append(cost)
        cuts.append(cut)
    return [
        Window(ends[start], ends[end] - ends[start], first := min(firsts[start:end]), max(last - first, 0))
        for start, end in _steps(cuts)
        for last in [max(lasts[start:end])]
    ]


def area_of(strips: Iterable[Window]) -> int:
    """The number of entries that the strips multiply, including zeros outside the mask."""
    return sum(strip.area for strip in strips)


@dataclass(frozen=True, eq=False)
class Piece(Kernel):
    """Consecutive strips of rows, multiplied from one buffer.

    The buffer, ``(entries of all strips,)``, holds one strip after another, each in row-major order, with zeros at
    entries outside the mask. The methods take it as ``values``; `filled` makes it from the kept entries.

    Args:
        shape: ``(rows, in)``, with the rows of all strips.
        windows: The strips. Their rows count from the first row of the piece.
        count: The number of kept entries in these strips.
        places: The index of each kept entry in the buffer, int64; None if every entry of the buffer is kept.
    """

    shape: torch.Size
    windows: tuple[Window, ...]
    count: int
    places: Tensor | None

    def filled(self, values: Tensor) -> Tensor:
        """The buffer, from the kept entries of these strips in row-major order."""
        return values if self.places is None else scattered(values, self.places, area_of(self.windows))

    @override
    def dense(self, values: Tensor) -> Tensor:
        width = self.shape[1]
        rows = [  # `torch.func.hessian` fails at `F.pad` of an empty tensor
            F.pad(part, (at, width - at - part.shape[1])) if part.numel() else part.new_zeros(len(part), width)
            for _, at, part in self._parts(values)
        ]
        return torch.cat(rows)

    @override
    def entries(self, weight: Tensor) -> Tensor:
        return torch.cat(
            [
                weight.narrow(0, row, rows).narrow(1, column, columns).reshape(rows * columns)
                for row, rows, column, columns in self.windows
            ]
        )

    @override
    def product(self, input: Tensor, values: Tensor, transposed: bool) -> Tensor:
        return sum_of_products(self._parts(values), input, self.shape[int(transposed)], transposed)

    @override
    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        operands = [
            (left.narrow(1, row, rows).mT, right.narrow(1, column, columns))
            for row, rows, column, columns in self.windows
        ]
        if is_recorded():
            return torch.cat([(one @ other).flatten() for one, other in operands])
        buffer = left.new_empty(area_of(self.windows))
        for (_, _, part), (one, other) in zip(self._parts(buffer), operands, strict=True):
            torch.mm(one, other, out=part)
        return buffer

    def _parts(self, buffer: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        parts = torch.split(buffer, [window.area for window in self.windows])
        for (row, rows, column, columns), part in zip(self.windows, parts, strict=True):
            yield row, column, part.view(rows, columns)


@dataclass(frozen=True, eq=False)
class Strips(MaskForm):
    """The kept entries of a matrix, by strips: at most 12 bytes for each position, or 16 if ``out * in >= 2^31``.

    Args:
        shape: ``(out, in)``.
        positions: The sorted row-major positions of the kept entries, ``(entries,)``.
        pieces: The strips in order of rows. A `Piece` holds consecutive strips with a common buffer.
    """

    shape: torch.Size
    positions: Tensor
    pieces: tuple[Piece, ...]

    @classmethod
    def of(cls, shape: torch.Size, positions: Tensor, strips: list[Window]) -> Self:
        """A `Strips` object for the mask that keeps the given sorted row-major positions, all inside ``strips``."""
        small = positions.to(index_dtype(shape.numel()))
        return cls(shape, small, tuple(_pieces(shape, positions.long(), strips)))

    @override
    def multiply(self, input: Tensor, values: Tensor) -> Tensor:
        # Each piece is filled right before its product, so that the backward pass frees one buffer at a time.
        outputs = [
            product(input, once(piece, values, partial(piece.filled, part)), piece)
            for piece, part in zip(self.pieces, self._parts(values), strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)

    def _parts(self, values: Tensor) -> tuple[Tensor, ...]:
        """The values of each piece, by one split, so that the backward pass makes one gradient for all pieces."""
        if len(self.pieces) == 1:  # nothing to split
            return (values,)
        parts: tuple[Tensor, ...] = torch.split(values, [piece.count for piece in self.pieces])
        return parts


@dataclass(frozen=True, eq=False)
class Blocks(MaskForm, Kernel):
    """Equal full blocks along the diagonal of ``(out, in)``, in one batched product.

    In row-major order the entries of a block are contiguous, so the stored values are the blocks, without a copy.

    Args:
        shape: ``(out, in)``.
        blocks: The number of blocks.
        home: The device of the mask, where `positions` are computed.
    """

    shape: torch.Size
    blocks: int
    home: torch.device

    @property
    @override
    def device(self) -> torch.device:
        return self.home

    @classmethod
    def of(cls, shape: torch.Size, positions: Tensor) -> Self | None:
        """The form of a mask with these sorted positions; None if they are not equal full blocks along the diagonal."""
        kept = positions.numel()
        blocks = shape.numel() // kept if kept and shape.numel() % kept == 0 else 0
        if not blocks or shape[0] % blocks or shape[1] % blocks:
            return None
        width = shape[1] // blocks
        if int(positions[width - 1]) != width - 1:  # quick, without memory: the first block's first row is not full
            return None
        made = cls(shape, blocks, positions.device)
        return made if torch.equal(made.positions, positions.to(made.positions)) else None

    @property
    @override
    def positions(self) -> Tensor:  # type: ignore[override]
        rows, columns = self._size
        row = torch.arange(self.shape[0], device=self.home)
        first = row * self.shape[1] + row // rows * columns
        every = first[:, None] + torch.arange(columns, device=self.home)
        return every.flatten().to(index_dtype(self.shape.numel()))

    @override
    def product(self, input: Tensor, values: Tensor, transposed: bool) -> Tensor:
        blocks = values.view(self.blocks, *self._size)
        output = torch.bmm(self._split(input), blocks if transposed else blocks.mT)
        together = output.transpose(0, 1).reshape(input.shape[0], self.shape[int(transposed)])
        return together.contiguous()  # blocks with one output give a view, with other strides than its tangent

    @override
    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.bmm(self._split(left).mT, self._split(right)).flatten()

    @property
    def _size(self) -> tuple[int, int]:
        """The rows and columns of one block."""
        return self.shape[0] // self.blocks, self.shape[1] // self.blocks

    def _split(self, rows: Tensor) -> Tensor:
        """Split the features evenly: ``(batch, features)`` to ``(blocks, batch, features of one block)``."""
        return rows.reshape(rows.shape[0], self.blocks, rows.shape[1] // self.blocks).transpose(0, 1)


def _pieces(shape: torch.Size, positions: Tensor, strips: list[Window]) -> Iterator[Piece]:
    """Group consecutive strips into pieces of at most `LARGEST` buffer entries; a larger strip is a piece alone."""
    first = 0
    for group in _grouped(strips):
        top, rows = group[0].row, sum(strip.rows for strip in group)
        last = int(torch.searchsorted(positions, (top + rows) * shape[1]))
        own = positions[first:last] - top * shape[1]
        begins = torch.tensor([0, *accumulate(strip.area for strip in group)][:-1], device=own.device)
        columns = torch.tensor([strip.column for strip in group], device=own.device)
        widths = torch.tensor([strip.columns for strip in group], device=own.device)
        tops = torch.tensor([strip.row - top for strip in group], device=own.device)
        row, column = own // shape[1], own % shape[1]
        at = torch.searchsorted(tops, row, right=True) - 1
        places = begins[at] + (row - tops[at]) * widths[at] + column - columns[at]
        moved = tuple(strip._replace(row=strip.row - top) for strip in group)
        full = places.numel() == area_of(group)
        yield Piece(torch.Size((rows, shape[1])), moved, last - first, None if full else places)
        first = last


def _grouped(strips: list[Window]) -> list[list[Window]]:
    groups: list[list[Window]] = []
    for strip in strips:
        if not groups or area_of([*groups[-1], strip]) > LARGEST:
            groups.append([])
        groups[-1].append(strip)
    return groups


def _groups(shape: torch.Size, positions: Tensor) -> tuple[list[int], list[int], list[int]]:
    """Three lists: the row boundaries of the groups, from 0 on; the first kept column of each; one past its last.

    For a group without entries, the first kept column is ``shape[1]``, and one past the last is 0.
    """
    starts = torch.searchsorted(positions, torch.arange(shape[0] + 1, dtype=positions.dtype) * shape[1])
    kept = starts.diff() > 0
    last = positions.numel() - 1
    first = (positions[starts[:-1].clamp(max=last)].long() % shape[1]).where(kept, shape[1])
    behind = (positions[starts[1:] - 1].long() % shape[1] + 1).where(kept, 0)
    changes = (first.diff() != 0) | (behind.diff() != 0)
    ends = [0, *(changes.nonzero().flatten() + 1).tolist(), shape[0]]
    if len(ends) > GROUPS + 1:
        size = -(-shape[0] // GROUPS)
        ends = [*range(0, shape[0], size), shape[0]]
    parts = [slice(start, end) for start, end in pairwise(ends)]
    return ends, [int(first[part].min()) for part in parts], [int(behind[part].max()) for part in parts]


def _steps(cuts: list[int]) -> list[tuple[int, int]]:
    """The chosen strips, as ranges of groups of rows; ``cuts[end]`` is the best start of a strip up to ``end``."""
    end, found = len(cuts) - 1, []
    while end:
        found.append((cuts[end], end))
        end = cuts[end]
    return found[::-1]
