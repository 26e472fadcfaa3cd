"""The form in which a mask's places are kept: the one that the cheapest way to multiply needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import torch
from torch import Tensor

from parametrizations._products.blocks import Blocks
from parametrizations._products.choice import (
    CSR,
    EMPTY,
    FORCED,
    OTHER_DEVICE,
    SCATTERED,
    Explanation,
    Product,
)
from parametrizations._products.csr import Pattern, index_dtype
from parametrizations._products.entries import Entries
from parametrizations._products.envelope import (
    BATCH,
    CALL,
    Envelope,
    Order,
    area_of,
    batch_for,
    cost_of,
    is_natural,
    orders,
    windows,
)
from parametrizations._products.skyline import Skyline
from parametrizations._products.spread import Spread

__all__ = ["Arranged", "arranged"]

# Measured 2026-11-21, torch 2.13.0 (CPU build, MKL), two threads of shared x86-64 machines of two makes.
ENTRY_OF_CSR = 1 / 0.15
"""What an entry costs in a CSR product, in entries of a dense product."""
CSR_FROM = 640 * 640
"""A smaller matrix is multiplied densely in less time than the calls of a CSR product take."""
CHEAPER = 0.9
"""Only what costs less than so much of a dense product is taken by itself, since machines differ."""
LARGEST_BATCH = 512
"""Strips are taken by themselves if they are faster from a batch on that is no larger than this."""
FROM_ONE = 6
"""Strips that are faster from such a batch on are about as fast for one row: reading the weight is what takes time."""
FRESH = 2**23
"""A weight of more numbers, 32 MB of float32, and its gradient, are memory that the system gives anew for each dense
product, page by page: strips that are faster for `BATCH` rows are faster for one."""
SORTING = 0.85
"""To bring a value to its place costs as much as so many entries of a dense product with a batch of 128."""
SAMPLED = 256
"""Orders are looked for and tried on so many rows first."""
SORTED = 0.75
"""Rows and columns are sorted where that leaves less than so much of the envelope, since inputs are then copied."""


class Arranged(NamedTuple):
    """A way to multiply, and the places in the form that it needs.

    Args:
        path: The way.
        entries: What it multiplies with; None where it is the dense product.
        whole: What the dense product needs where it is used, if for small batches alone; else None.
        least: The smallest batch for which the way is faster than the dense product; 0 where it was asked for.
    """

    path: Explanation
    entries: Entries | None
    whole: Spread | None
    least: int = 0


class _Way(NamedTuple):
    cost: float
    least: float
    path: Explanation
    build: Callable[[Tensor, bool], Entries]


def arranged(shape: torch.Size, positions: Tensor, product: Product) -> Arranged:
    """The form for the sorted row-major positions of a mask, on their device.

    Args:
        shape: The weight's, ``(out, in)``.
        positions: ``(entries,)``.
        product: What was asked for.
    """
    refused = _refused(positions.device, product) if shape.numel() else EMPTY
    if refused is not None:
        return Arranged(refused, None, Spread.of(positions, shape.numel()))
    sparse = product != "strips" and _refused(positions.device, "csr") is None
    ways = [_csr(shape, positions)] if sparse else []
    if product != "csr":
        known = [way.cost for way in ways if way.cost < CHEAPER * shape.numel()]
        ways = _skyline(shape, positions, *known) + ways
    if product != "auto":
        best = min(ways, key=lambda way: way.cost)
        return Arranged(best.path, best.build(positions.to(index_dtype(shape.numel())), False), None)
    return _cheapest(shape.numel(), ways, positions)


def _cheapest(numel: int, ways: list[_Way], positions: Tensor) -> Arranged:
    worth = [way for way in ways if way.cost < CHEAPER * numel or 0 < way.least < LARGEST_BATCH]
    if not worth:
        return Arranged(SCATTERED, None, Spread.of(positions, numel))
    best = min(worth, key=lambda way: way.cost)
    if best.least <= (FROM_ONE if numel <= FRESH else BATCH):
        return Arranged(best.path, best.build(positions.to(index_dtype(numel)), False), None)
    least = math.ceil(best.least)
    path = Explanation(best.path.product, f"{best.path.why}, from a batch of {least} on")
    return Arranged(path, *_for_both(best, positions, numel), least)


def _for_both(way: _Way, positions: Tensor, numel: int) -> tuple[Entries, Spread]:
    """The form that a way needs, and what the dense product needs; the positions serve both.

    They have 4 bytes where windows bring values to the form's places: with what these take, 8 would be above 12 in all.
    """
    whole = Spread.of(positions, numel)
    form = way.build(whole.places, True)
    if whole.runs is None and isinstance(form, Skyline) and form.has_runs:
        whole = Spread(numel, positions.to(index_dtype(numel)))
        form = replace(form, kept=whole.places)
    return form, whole


def _refused(device: torch.device, product: Product) -> Explanation | None:
    """Why the dense product is taken whatever the mask; None where it depends on the mask."""
    if product == "dense":
        return FORCED
    return OTHER_DEVICE if device.type != "cpu" and product in ("auto", "csr") else None


def _csr(shape: torch.Size, positions: Tensor) -> _Way:
    cost = max(ENTRY_OF_CSR * positions.numel(), CSR_FROM)
    return _Way(cost, 0, CSR, lambda positions, _: Pattern.of(shape, positions))


def _skyline(shape: torch.Size, positions: Tensor, below: float = math.inf) -> list[_Way]:
    """The strips or blocks; none if strips cannot cost less than so much, since to look for the best takes long."""
    places = positions.cpu()
    envelope = Envelope.of_sorted(shape, places)
    blocks = Blocks.of(envelope, positions.device)
    if blocks is not None:
        why = f"{_count(blocks.blocks, 'block')} at once"
        return [_Way(CALL + blocks.count, 0, Explanation("strips", why), lambda *_: blocks)]
    envelope, order = _smallest(envelope, places, below)
    return [_in_strips(envelope, order, positions)] if envelope.area < below else []


def _smallest(own: Envelope, positions: Tensor, below: float) -> tuple[Envelope, Order | None]:
    """The envelope in an order that leaves much less of it, else the matrix's own, whose order is None."""
    worth = _worth(own, positions, below)
    found: tuple[Envelope, Order | None] = own, None
    if any(worth):
        rows, columns = positions.long() // own.shape[1], positions.long() % own.shape[1]
        for order in compress(orders(own, rows, columns), worth):
            reordered = _reordered(own.shape, order, rows, columns)
            if reordered.area_in_groups < SORTED * found[0].area_in_groups:
                found = reordered, order
    return found


def _worth(envelope: Envelope, positions: Tensor, below: float) -> list[bool]:
    """Which orders leave little enough of some rows, with a tenth to spare, to be tried on all of them."""
    some, rows, columns = _some(envelope, positions)
    most, in_groups = 1.1 * below * some.shape[0] / envelope.shape[0], 1.1 * SORTED * some.area_in_groups
    tried = (_reordered(some.shape, order, rows, columns) for order in orders(some, rows, columns))
    return [one.area < most and one.area_in_groups < in_groups for one in tried]


def _some(envelope: Envelope, positions: Tensor) -> tuple[Envelope, Tensor, Tensor]:
    """Every so many rows as a matrix of their own: its envelope, and the row and column of each of its entries."""
    chosen = torch.arange(0, envelope.shape[0], -(-envelope.shape[0] // SAMPLED), device="cpu")
    counts, ends = envelope.counts[chosen], envelope.counts.cumsum(0)[chosen]
    rows = torch.arange(chosen.numel(), device="cpu").repeat_interleave(counts)
    entries = torch.arange(rows.numel(), device="cpu") + (ends - counts.cumsum(0))[rows]
    shape = torch.Size((chosen.numel(), envelope.shape[1]))
    some = Envelope(shape, envelope.first[chosen], envelope.last[chosen], counts)
    return some, rows, positions[entries].long() % shape[1]


def _reordered(shape: torch.Size, order: Order, rows: Tensor, columns: Tensor) -> Envelope:
    return Envelope.of(shape, order.rows.argsort()[rows], order.columns.argsort()[columns])


def _in_strips(envelope: Envelope, order: Order | None, positions: Tensor) -> _Way:
    strips, numel = windows(envelope), envelope.shape.numel()
    why = f"{_count(len(strips), 'strip')} over {area_of(strips) / numel:.0%} of the weight"
    moved = _moved(order)
    why += f", its {' and '.join(moved)} sorted" if moved else ""
    sorting = int(SORTING * positions.numel()) if "columns" in moved else 0  # else what lies side by side stays so
    return _Way(
        cost_of(strips) + sorting,
        batch_for(strips, numel, sorting),
        Explanation("strips", why),
        lambda positions, rarely: Skyline.of(envelope.shape, positions, strips, order, rarely=rarely),
    )


def _moved(order: Order | None) -> list[str]:
    return [name for name in Order._fields if order is not None and not is_natural(getattr(order, name))]


def _count(number: int, what: str) -> str:
    return f"{number} dense {what}{'' if number == 1 else 's'}"
