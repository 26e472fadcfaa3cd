"""`Swap`: how a rule moves a mask that knows which of the kept entries stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from parametrizations.masks.kept import Kept

__all__ = ["Swap", "Swapped"]


class Swapped(NamedTuple):
    """What takes the place of the kept entries.

    Args:
        stays: Which of them stay: ``(kept,)``, boolean.
        comes: The positions of others that come, sorted: ``(new,)``.
        before: How many of the kept entries, whether they stay or go, lie before each that comes: ``(new,)``.
    """

    stays: Tensor
    comes: Tensor
    before: Tensor

    def to(self, device: torch.device) -> Swapped:
        """The same on a device."""
        return Swapped(*(part.to(device) for part in self))


@dataclass(frozen=True, eq=False)
class Swap:
    """The `MaskRule.move` of such a rule, so that `remask` need not look for what stays among what was kept."""

    choose: Callable[[Kept], Swapped]

    def __call__(self, kept: Kept) -> Tensor:
        """The positions that are kept from now on."""
        swapped = self.choose(kept)
        return torch.cat([kept.places[swapped.stays], swapped.comes])
