"""`Kept`: the entries that a mask keeps, by values and positions; and `Move`, the change from a mask to the next."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from parametrizations.masks.arguments import Axes, home


class Kept:
    """The kept entries of one weight, by values and positions: the argument of ``move`` and ``spread`` of a `MaskRule`.

    A kept entry may be 0, so the values alone do not tell which entries are kept.

    Args:
        name: The weight's name in the plain model.
        shape: The shape of the weight.
        values: The kept entries, ``(kept,)``; copied when a rule asks for them.
        positions: Their row-major positions in the weight, sorted: ``(kept,)``. None before there is a mask, as in
            `register`: then ``values`` holds all entries, and `places` all positions.
        axes: The axes of outputs and inputs of a convolution, ``(out, in)``. None for other layers.

    Example:
        >>> kept = Kept("0.weight", torch.Size((2, 3)), torch.tensor([0.5, 0.0]), torch.tensor([1, 5]))
        >>> kept.places
        tensor([1, 5])
    """

    def __init__(
        self, name: str, shape: torch.Size, values: Tensor, positions: Tensor | None = None, *, axes: Axes = None
    ) -> None:
        self.name = name
        self.shape = shape
        self.device = home(values)
        self.entries = values.detach()  # not copied: for this package's rules, which only read
        self.axes = axes
        self._positions = positions

    @classmethod
    def whole(cls, weight: Tensor, name: str = "weight", axes: Axes = None) -> Self:
        """Every entry of a weight without a mask."""
        return cls(name, weight.shape, weight.flatten(), axes=axes)

    @property
    def count(self) -> int:
        """How many entries are kept."""
        return self.entries.numel()

    @cached_property
    def values(self) -> Tensor:
        """The kept entries, ``(kept,)``, a copy: writing into it does not change the weight."""
        return self.entries.clone()

    @cached_property
    def places(self) -> Tensor:
        """A copy of the row-major positions of the kept entries in the weight, sorted, int64: ``(kept,)``."""
        return self.positions.clone()

    @property
    def positions(self) -> Tensor:
        """As `places`, but may share memory with the positions of the mask."""
        if self._positions is None:
            return torch.arange(self.count, device=self.device)
        return self._positions.long()


class Move(NamedTuple):
    """For each entry that the new mask keeps, its index among the entries that the old mask keeps.

    Args:
        source: The indices, ``(new,)``. The index of an entry that only the new mask keeps is arbitrary.
        stays: Whether both masks keep the entry: ``(new,)``.
    """

    source: Tensor
    stays: Tensor

    @classmethod
    def between(cls, old: Tensor, new: Tensor) -> Self:
        """The move from an old to a new mask, both given as sorted positions."""
        source = torch.searchsorted(old, new).clamp_(max=max(old.numel() - 1, 0))
        stays = old[source] == new if old.numel() else torch.zeros_like(new, dtype=torch.bool)
        return cls(source, stays)

    def of(self, entries: Tensor, fresh: float | complex = 0) -> Tensor:
        """The values of the entries that stay, bit for bit, and ``fresh`` for new ones."""
        if not entries.numel():
            return entries.detach().new_full(self.source.shape, fresh)
        source, stays = self.source.to(entries.device), self.stays.to(entries.device)
        return torch.where(stays, entries.detach().index_select(0, source), entries.detach().new_tensor(fresh))
