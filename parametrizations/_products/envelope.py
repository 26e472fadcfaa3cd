"""The envelope of a sparse matrix: from the first to the last entry of each row, and strips of rows that cover it.

Variable-band, or envelope, storage: Jennings 1966; George and Liu, *Computer Solution of Large Sparse Positive Definite
Systems*, 1981, chapter 4.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "BATCH",
    "CALL",
    "Envelope",
    "Order",
    "Window",
    "area_of",
    "batch_for",
    "cost_of",
    "is_natural",
    "orders",
    "windows",
]

# Measured 2026-11-22, torch 2.13.0 (CPU build, MKL), two threads of a shared AMD machine, 512 to 2048 features.
BATCH = 128
CALL = 16_384
"""So many entries of a dense product with a batch of `BATCH` take as long as the calls for one strip more."""
GROUPS = 128
"""Strips end where one of at most so many groups of rows does."""
EQUAL = 32
"""Orders of rows are compared by so many groups of them, since the extent of a single row is the same in each."""


class Window(NamedTuple):
    """A strip of rows, and the columns from its first entry to its last."""

    row: int
    rows: int
    column: int
    columns: int


class Order(NamedTuple):
    """Another order of the rows and of the columns: for each place the row or column that is there."""

    rows: Tensor
    columns: Tensor


class Envelope(NamedTuple):
    """For each row its first column with an entry, the column behind its last, and its number of entries.

    A row without entries begins behind the last column and ends before the first.
    """

    shape: torch.Size
    first: Tensor
    last: Tensor
    counts: Tensor

    @classmethod
    def of(cls, shape: torch.Size, rows: Tensor, columns: Tensor) -> Self:
        """The envelope of entries, given by their row and column in any sequence."""
        first = torch.full(shape[:1], shape[1], device="cpu").scatter_reduce(0, rows, columns, "amin")
        last = torch.zeros(shape[0], dtype=torch.long, device="cpu").scatter_reduce(0, rows, columns + 1, "amax")
        return cls(shape, first, last, torch.bincount(rows, minlength=shape[0]))

    @classmethod
    def of_sorted(cls, shape: torch.Size, positions: Tensor) -> Self:
        """The same for entries by their sorted row-major positions; only the ends of rows are looked at."""
        if not positions.numel():
            return cls.of(shape, positions.long(), positions.long())
        ends = torch.arange(shape[0] + 1, dtype=positions.dtype, device="cpu") * shape[1]
        starts = torch.searchsorted(positions, ends)
        counts, edges = starts.diff(), torch.stack([starts[:-1].clamp(max=positions.numel() - 1), starts[1:] - 1])
        first, last = positions[edges.clamp(min=0)].long() % shape[1]
        return cls(shape, first.where(counts > 0, shape[1]), (last + 1).where(counts > 0, 0), counts)

    @property
    def area(self) -> int:
        """The number of places in it."""
        return int((self.last - self.first).clamp(min=0).sum())

    @property
    def area_in_groups(self) -> int:
        """The same where neighbouring rows, in `EQUAL` groups, are as wide as all of them together: as strips are."""
        rows = -(-self.shape[0] // EQUAL)
        further = (0, -self.shape[0] % rows)
        first = F.pad(self.first, further, value=self.shape[1]).view(-1, rows).amin(1)
        last = F.pad(self.last, further).view(-1, rows).amax(1)
        return rows * int((last - first).clamp(min=0).sum())


def orders(envelope: Envelope, rows: Tensor, columns: Tensor) -> list[Order]:
    """Orders in which the envelope of these entries may be much smaller.

    By the number of entries, which turns any matrix whose rows are nested sets into a staircase, such as the masks of
    MADE (Germain et al. 2015) whatever their degrees; and by the first entry, which puts shuffled blocks together.
    """
    by_count = Order(
        envelope.counts.argsort(stable=True),
        torch.bincount(columns, minlength=envelope.shape[1]).argsort(stable=True, descending=True),
    )
    of_rows = _by_extent(envelope)
    turned = Envelope.of(torch.Size(envelope.shape[::-1]), columns, of_rows.argsort()[rows])
    return [by_count, Order(of_rows, _by_extent(turned))]


def _by_extent(envelope: Envelope) -> Tensor:
    return (envelope.first * (envelope.shape[1] + 1) + envelope.last).argsort(stable=True)


def windows(envelope: Envelope) -> list[Window]:
    """The cheapest strips of consecutive rows, each as wide as its widest row asks for.

    The best way to end at each group of rows follows from the best ways to end at those before it.
    """
    ends, firsts, lasts = _groups(envelope)
    best, cuts = [0.0], [0]
    for end in range(1, len(ends)):
        first, last, cost, cut = envelope.shape[1], 0, inf, 0
        for start in range(end - 1, -1, -1):
            first, last = min(first, firsts[start]), max(last, lasts[start])
            here = best[start] + CALL + (ends[end] - ends[start]) * max(last - first, 0)
            cost, cut = min((cost, cut), (here, start))
        best.append(cost)
        cuts.append(cut)
    return [_window(envelope, ends[start], ends[end]) for start, end in _steps(cuts)]


def is_natural(order: Tensor) -> bool:
    """Whether everything stays where it is."""
    return torch.equal(order, torch.arange(order.numel(), device=order.device))


def area_of(strips: list[Window]) -> int:
    """The entries of the matrix that the strips multiply."""
    return sum(strip.rows * strip.columns for strip in strips)


def cost_of(strips: list[Window]) -> int:
    """In entries of a dense product with a batch of `BATCH`."""
    return area_of(strips) + CALL * len(strips)


def batch_for(strips: list[Window], numel: int, extra: int) -> float:
    """From which batch on the strips, and what costs as much as so many entries, are faster than the whole matrix."""
    saved = numel - area_of(strips)
    calls = CALL / 2 * len(strips)  # the other half is a lower rate of the products, which small batches have anyway
    return BATCH * (calls + extra) / saved if saved else inf


def _groups(envelope: Envelope) -> tuple[list[int], list[int], list[int]]:
    """The rows at which groups of rows end, from 0 on, and the first and last column of each group."""
    rows = envelope.shape[0]
    changes = (envelope.first.diff() != 0) | (envelope.last.diff() != 0)
    ends = [*(changes.nonzero().flatten() + 1).tolist(), rows]
    if len(ends) > GROUPS:
        size = -(-rows // GROUPS)
        ends = [*range(size, rows, size), rows]
    ends = [0, *ends]
    firsts = [int(envelope.first[start:end].min()) for start, end in pairwise(ends)]
    lasts = [int(envelope.last[start:end].max()) for start, end in pairwise(ends)]
    return ends, firsts, lasts


def _steps(cuts: list[int]) -> list[tuple[int, int]]:
    """The chosen strips, as numbers of groups, from what each group's best predecessor is."""
    end, found = len(cuts) - 1, []
    while end:
        found.append((cuts[end], end))
        end = cuts[end]
    return found[::-1]


def _window(envelope: Envelope, start: int, end: int) -> Window:
    first, last = int(envelope.first[start:end].min()), int(envelope.last[start:end].max())
    return Window(start, end - start, first, max(last - first, 0))
