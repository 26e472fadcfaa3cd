"""The figures to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.cases import Case
from benchmarks.contestants import OURS, PLAIN
from benchmarks.measure import Timing

__all__ = ["GOALS", "Goal"]


@dataclass(frozen=True)
class Goal:
    """A contestant takes at most so many times what the fastest of the others takes."""

    case: Case
    contestant: str
    others: tuple[str, ...]
    most: float

    def ratio(self, timings: Mapping[str, Timing]) -> float:
        """What the contestant takes, as a multiple of what the fastest of the others takes."""
        return timings[self.contestant].median / min(timings[other].median for other in self.others)

    def is_reached(self, ratio: float) -> bool:
        """Whether a measured ratio is low enough."""
        return ratio <= self.most


BY_MASK = ("weight * mask", "prune.custom_from_mask")
BY_ZEROS = ("weight * mask", "clone, fill_diagonal_")
BY_EXP = ("clone, copy -exp", "diagonal_scatter -exp")

GOALS = (
    Goal(Case("Diagonal", 4096, 128), OURS, ("x * w + b",), 1.1),
    Goal(Case("MaskedSparse", 4096, 128, 0.01), OURS, BY_MASK, 0.033),
    Goal(Case("MaskedSparse", 4096, 128, 0.1), OURS, BY_MASK, 0.25),
    Goal(Case("MaskedSparse", 4096, 128, 0.5), OURS, BY_MASK, 1.05),
    Goal(Case("ZeroDiagonal", 1024, 32), OURS, (PLAIN,), 1.05),
    Goal(Case("ZeroDiagonal", 1024, 128), OURS, (PLAIN,), 1.05),
    Goal(Case("ZeroDiagonal", 4096, 32), OURS, (PLAIN,), 1.05),
    Goal(Case("ZeroDiagonal", 4096, 128), OURS, (PLAIN,), 1.05),
    Goal(Case("ZeroDiagonal", 256, 32), OURS, BY_ZEROS, 1.05),
    Goal(Case("NegExpDiagonal", 1024, 32), OURS, (PLAIN,), 1.05),
    Goal(Case("NegExpDiagonal", 1024, 128), OURS, (PLAIN,), 1.05),
    Goal(Case("NegExpDiagonal", 4096, 32), OURS, (PLAIN,), 1.05),
    Goal(Case("NegExpDiagonal", 4096, 128), OURS, (PLAIN,), 1.05),
    Goal(Case("NegExpDiagonal", 256, 32), OURS, BY_EXP, 1.05),
)
