"""`Swap`: how a rule moves a mask that knows which of the kept entries stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from parametrizations.masks.kept import Kept

__all__ = ["Swap"]


@dataclass(frozen=True, eq=False)
class Swap:
    """The `MaskRule.move` of such a rule, so that `remask` need not look for what stays among what was kept.

    Args:
        parts: Which of the kept entries stay, ``(kept,)``, boolean, and the positions of others that come, sorted.
    """

    parts: Callable[[Kept], tuple[Tensor, Tensor]]

    def __call__(self, kept: Kept) -> Tensor:
        """The positions that are kept from now on."""
        stays, comes = self.parts(kept)
        return torch.cat([kept.places[stays], comes])
