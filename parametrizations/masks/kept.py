"""`Kept`: a weight by the entries that its mask keeps, which is all that a mask that moves needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["Kept"]


@dataclass(frozen=True, eq=False)
class Kept:
    """A weight as a rule sees it that works on kept entries, or on several weights at once.

    A kept entry may be 0, so the values alone do not tell which entries are kept.

    Args:
        name: The weight's name in the plain model.
        shape: The weight's, ``(out, in)``.
        values: The kept entries, ``(kept,)``, a copy: what is written into it changes no weight.
        positions: Their places in the weight, row by row, sorted, int64: ``(kept,)``. None where there is no mask yet
            and every entry is shown, as by `register`.

    Example:
        >>> kept = Kept("0.weight", torch.Size((2, 3)), torch.tensor([0.5, 0.0]), torch.tensor([1, 5]))
        >>> kept.places()
        tensor([1, 5])
    """

    name: str
    shape: torch.Size
    values: Tensor
    positions: Tensor | None = None

    @classmethod
    def whole(cls, weight: Tensor, name: str = "weight") -> Self:
        """Every entry of a weight that has no mask yet."""
        return cls(name, weight.shape, weight.detach().flatten())

    def places(self) -> Tensor:
        """The positions, also where every entry is shown."""
        if self.positions is not None:
            return self.positions
        device = torch.device("cpu") if self.values.is_meta else self.values.device
        return torch.arange(self.shape.numel(), device=device)
