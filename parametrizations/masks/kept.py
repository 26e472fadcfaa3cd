"""`Kept`: a weight by the entries that its mask keeps, which is all that a mask that moves needs to know."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import torch
from torch import Tensor

__all__ = ["Kept"]


class Kept:
    """A weight as a rule sees it that works on kept entries, or on several weights at once.

    A kept entry may be 0, so the values alone do not tell which entries are kept.

    Args:
        name: The weight's name in the plain model.
        shape: The weight's, ``(out, in)``.
        values: The kept entries, ``(kept,)``; copied when a rule asks for them.
        positions: Their places in the weight, row by row, sorted: ``(kept,)``. None where there is no mask yet
            and every entry is shown, as by `register`.

    Example:
        >>> kept = Kept("0.weight", torch.Size((2, 3)), torch.tensor([0.5, 0.0]), torch.tensor([1, 5]))
        >>> kept.places
        tensor([1, 5])
    """

    def __init__(self, name: str, shape: torch.Size, values: Tensor, positions: Tensor | None = None) -> None:
        self.name = name
        self.shape = shape
        self.device = torch.device("cpu") if values.is_meta else values.device
        self._shared = values.detach()
        self._positions = positions

    @classmethod
    def whole(cls, weight: Tensor, name: str = "weight") -> Self:
        """Every entry of a weight that has no mask yet."""
        return cls(name, weight.shape, weight.flatten())

    @property
    def count(self) -> int:
        """How many entries are kept."""
        return self._shared.numel()

    @cached_property
    def values(self) -> Tensor:
        """The kept entries, ``(kept,)``, a copy: what is written into it changes no weight."""
        return self._shared.clone()

    @cached_property
    def places(self) -> Tensor:
        """Their positions in the weight, row by row, sorted, int64: ``(kept,)``."""
        if self._positions is None:
            return torch.arange(self.count, device=self.device)
        return self._positions.to(torch.int64, copy=True)
