"""`Places`: where a weight has the entries that its first parametrization stores, for the steps on top of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Places", "on_diagonal"]


@dataclass(frozen=True, eq=False)
class Places:
    """Where the stored entries of a weight are; everywhere else it is 0.

    Args:
        shape: The weight's, ``(out, in)``.
        diagonal: Which of the entries are on the main diagonal, from its first on; None where all of them are.
        positions: Gives the entries' row-major positions, ``(entries,)``.
    """

    shape: torch.Size
    diagonal: Tensor | None
    positions: Callable[[], Tensor]

    @property
    def has_whole_diagonal(self) -> bool:
        """Whether every entry of the main diagonal is stored."""
        return self.diagonal is None or self.diagonal.numel() == min(self.shape)

    @property
    def rows(self) -> Tensor:
        """The row, that is the output, of each entry: ``(entries,)``."""
        return torch.div(self.positions(), self.shape[1], rounding_mode="floor")

    @property
    def columns(self) -> Tensor:
        """The column, that is the input, of each entry: ``(entries,)``."""
        return self.positions() % self.shape[1]


def on_diagonal(positions: Tensor, shape: torch.Size) -> Tensor:
    """Which of the sorted positions are on the main diagonal."""
    wanted = torch.arange(min(shape), device=positions.device) * (shape[1] + 1)
    places = torch.searchsorted(positions.long(), wanted).clamp(max=max(positions.numel() - 1, 0))
    return places[positions[places] == wanted] if positions.numel() else places[:0]
