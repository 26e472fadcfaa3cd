"""`Spread`: where numbers that are stored without gaps lie in a larger buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from parametrizations._products.csr import index_dtype
from parametrizations._products.one_by_one import read, written
from parametrizations._products.runs import Runs, runs
from parametrizations._torch.transforms import has_tangent, may_look_at_values

__all__ = ["Spread"]


@dataclass(frozen=True, eq=False)
class Spread:
    """The places of numbers in a buffer that is zero elsewhere.

    Args:
        size: How many numbers the buffer has.
        places: Where in it each of them is: ``(entries,)``.
        runs: What writes them there, and what takes them from there, where their places are runs.
    """

    size: int
    places: Tensor
    runs: tuple[Runs, Runs] | None = None

    @classmethod
    def of(cls, places: Tensor, size: int, *, rarely: bool = False) -> Self:
        """The form that is fastest on the places' device; ``rarely`` says that it is not used at every step.

        A place takes 4 bytes where it mostly serves others than these steps, else 8: what is written by it need not be
        converted then.
        """
        small = index_dtype(size)
        if places.device.type != "cpu":
            return cls(size, places.to(small if rarely else torch.long))
        found = runs(places.long(), size)
        return cls(size, places.to(small if found or rarely else torch.long), found)

    def buffer(self, values: Tensor) -> Tensor:
        """The buffer, ``(size,)``, with these values, ``(entries,)``."""
        if not _may_be_copied(values):
            return values.new_zeros(self.size).index_copy(0, self.places.long(), values)
        if self.runs is None:
            return written(values, self.places.long(), (self.size,))
        return self.runs[0].gather(values, values.new_empty(self.size))

    def values(self, buffer: Tensor) -> Tensor:
        """The values, ``(entries,)``, from a buffer, ``(size,)``."""
        if torch.is_grad_enabled() or not _may_be_copied(buffer):
            return buffer.index_select(0, self.places)
        values = buffer.new_empty(self.places.shape)
        self.write_values(buffer, values)
        return values

    def write_values(self, buffer: Tensor, output: Tensor) -> None:
        """The same into an output, ``(entries,)``, without a record of it."""
        if not _may_be_copied(buffer):
            torch.index_select(buffer, 0, self.places, out=output)
        elif self.runs is None:
            read(buffer, self.places, output)
        else:
            self.runs[1].gather(buffer, output)


def _may_be_copied(numbers: Tensor) -> bool:
    """Whether nothing but the numbers is asked for: no record of what is done, and no tangent."""
    return may_look_at_values(numbers) and not has_tangent(numbers)
