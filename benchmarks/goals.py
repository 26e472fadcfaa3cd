"""The figures to reach: the time of the package's layer as a multiple of another contestant's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.cases import CHAIN, SPARSE, Case
from benchmarks.contestants import BY_HAND, OURS, PLAIN

__all__ = ["GOALS", "Goal", "Times"]

Times = Mapping[Case, Mapping[str, float]]
"""Milliseconds of each contestant."""


@dataclass(frozen=True)
class Goal:
    """At most ``most`` times the time of ``against``, between the given features and batches."""

    constraint: str
    features: tuple[int, int]
    batch: tuple[int, int]
    against: str
    most: float
    mask: str = ""
    work: str = "step"

    def ratios(self, times: Times) -> list[float]:
        """The multiple in each measured case."""
        return [found[OURS] / found[self.against] for case, found in times.items() if self._includes(case)]

    def _includes(self, case: Case) -> bool:
        kind = (case.constraint, case.work) == (self.constraint, self.work) and self.mask in ("", case.mask)
        (fewest, most), (smallest, largest) = self.features, self.batch
        return kind and fewest <= case.features <= most and smallest <= case.batch <= largest


N1024, N4096 = (1024, 1024), (4096, 4096)
GOALS = (
    Goal("ZeroDiagonal", (32, 512), (1, 128), BY_HAND, 1.05),
    Goal(SPARSE, (32, 512), (1, 128), BY_HAND, 1.05),
    Goal("NegExpDiagonal", (32, 128), (1, 128), BY_HAND, 1.15),
    Goal("NegExpDiagonal", (256, 512), (1, 128), BY_HAND, 1.1),
    Goal("Diagonal", N4096, (1, 128), BY_HAND, 1.1),
    Goal(CHAIN, N4096, (128, 128), BY_HAND, 1.1),
    Goal("ZeroDiagonal", (1024, 4096), (32, 128), PLAIN, 1.05),
    Goal("NegExpDiagonal", (1024, 4096), (32, 128), PLAIN, 1.05),
    Goal(SPARSE, N4096, (128, 128), "prune", 0.05, "1 %"),
    Goal(SPARSE, N4096, (128, 128), "prune", 0.286, "10 %"),
    Goal(SPARSE, N4096, (128, 128), "prune", 1.05, "50 %"),
    Goal(SPARSE, N4096, (128, 128), PLAIN, 0.15, "block_diagonal(8)"),
    Goal(SPARSE, N4096, (128, 128), PLAIN, 0.12, "banded(64, 64)"),
    Goal(SPARSE, N4096, (128, 128), PLAIN, 0.7, "lower_triangular()"),
    Goal(SPARSE, N1024, (128, 128), PLAIN, 0.25, "block_diagonal(8)"),
    Goal(SPARSE, N1024, (128, 128), PLAIN, 0.5, "banded(64, 64)"),
    Goal(SPARSE, N1024, (128, 128), PLAIN, 0.95, "lower_triangular()"),
    *(
        Goal(name, (64, 1024), (32, 32), PLAIN, 1.05, work="loop")
        for name in ("ZeroDiagonal", "NegExpDiagonal", SPARSE)
    ),
)
