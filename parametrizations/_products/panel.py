"""`Panel`: strips of a matrix one after another in one buffer, which is filled and read in few operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from torch import Tensor

from parametrizations._products.envelope import Window
from parametrizations._products.spread import Spread

__all__ = ["LARGEST", "Panel", "Strip", "grouped", "in_buffer"]

LARGEST = 2**21
"""Numbers in a buffer of several strips: what has 32 MB and more glibc asks the system for at each step, empty."""


class Strip(NamedTuple):
    """The rows and columns of a strip, and where its first number is in the buffer."""

    window: Window
    start: int


@dataclass(frozen=True, eq=False)
class Panel:
    """Strips, and the values that lie in them.

    Args:
        strips: In the order in which they lie in the buffer.
        first: The place of its first value among all.
        entries: The number of its values, which follow one another.
        spread: Where they lie in the buffer; None where they are the buffer.
    """

    strips: tuple[Strip, ...]
    first: int
    entries: int
    spread: Spread | None

    @classmethod
    def of(cls, strips: tuple[Strip, ...], first: int, places: Tensor, *, rarely: bool) -> Self:
        """The panel of values with these places in its buffer; ``rarely`` as for a `Spread`."""
        window, start = strips[-1]
        area = start + window.rows * window.columns
        full = places.numel() == area and bool((places.diff() == 1).all())
        return cls(strips, first, places.numel(), None if full else Spread.of(places, area, rarely=rarely))

    def filled(self, values: Tensor) -> tuple[Tensor, ...]:
        """The part of the weight in each strip, ``(rows, columns)``, from the values of the whole matrix."""
        values = self.own(values)
        return tuple(part for _, part in self.parts(values if self.spread is None else self.spread.buffer(values)))

    def own(self, values: Tensor) -> Tensor:
        """Its part of the values of the whole matrix."""
        return values.narrow(0, self.first, self.entries)

    def parts(self, buffer: Tensor) -> Iterator[tuple[Window, Tensor]]:
        """Each strip with its part of a buffer, ``(rows, columns)``."""
        for window, start in self.strips:
            size = window.rows * window.columns
            yield window, buffer.narrow(0, start, size).view(window.rows, window.columns)


def grouped(windows: list[Window], largest: int) -> list[list[Window]]:
    """Consecutive windows for panels of up to so many numbers."""
    groups: list[list[Window]] = []
    room = -1
    for window in windows:
        size = window.rows * window.columns
        if size > room:
            groups.append([])
            room = max(largest, size)
        groups[-1].append(window)
        room -= size
    return groups


def in_buffer(windows: list[Window]) -> tuple[Strip, ...]:
    """The strips of these windows, one after another."""
    strips, start = [], 0
    for window in windows:
        strips.append(Strip(window, start))
        start += window.rows * window.columns
    return tuple(strips)
