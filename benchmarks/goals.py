"""The figures to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.by_hand import MASK_ALONE
from benchmarks.cases import CHAIN, STABLE, Case
from benchmarks.contestants import OURS, PLAIN, REGISTERED
from benchmarks.measure import Timing

__all__ = ["BY_MASK", "GOALS", "Goal"]


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
REPLACED = ("ZeroDiagonal", "NegExpDiagonal")


def _structured(n: int, structure: str, most: float) -> Goal:
    return Goal(Case("MaskedSparse", n, 128, structure=structure), OURS, (PLAIN,), most)


def _small(constraint: str, others: tuple[str, ...], most: float, density: float = 0.0) -> Goal:
    return Goal(Case(constraint, 32, 32, density, work="forward"), OURS, others, most)


GOALS = (
    Goal(Case("Diagonal", 4096, 128), OURS, ("x * w + b",), 1.1),
    Goal(Case(CHAIN, 4096, 128), OURS, ("x * -exp(a) + b",), 1.1),
    Goal(Case("MaskedSparse", 4096, 128, 0.01), OURS, BY_MASK, 0.05),
    Goal(Case("MaskedSparse", 4096, 128, 0.1), OURS, BY_MASK, 0.286),
    Goal(Case("MaskedSparse", 4096, 128, 0.5), OURS, BY_MASK, 1.05),
    Goal(Case("MaskedSparse", 4096, 512, 0.1), OURS, BY_MASK, 1.05),
    _structured(4096, "block_diagonal(8)", 0.15),
    _structured(1024, "block_diagonal(8)", 0.3),
    _structured(4096, "banded(64, 64)", 0.12),
    _structured(1024, "banded(64, 64)", 0.5),
    _structured(4096, "lower_triangular()", 0.85),
    _structured(1024, "lower_triangular()", 1.05),
    _structured(2048, "autoregressive, shuffled", 1.0),
    *(
        Goal(Case(STABLE, n, 128, structure="lower_triangular()"), OURS, (other,), most)
        for n, other, most in ((4096, PLAIN, 0.85), (1024, PLAIN, 1.05), (2048, MASK_ALONE, 1.15))
    ),
    *(
        Goal(Case(name, n, batch), OURS, (PLAIN,), 1.05)
        for name in REPLACED
        for n in (1024, 4096)
        for batch in (32, 128)
    ),
    *(Goal(Case(name, n, 32, work="loop"), OURS, (PLAIN,), 1.05) for name in REPLACED for n in (64, 256, 1024)),
    *(Goal(Case("MaskedSparse", n, 32, 0.1, work="loop"), OURS, (PLAIN,), 1.05) for n in (64, 256, 1024)),
    _small("Diagonal", ("x * w + b",), 1.2),
    _small("MaskedSparse", BY_MASK, 1.4, 0.1),
    _small("ZeroDiagonal", BY_ZEROS, 1.2),
    _small("NegExpDiagonal", BY_EXP, 1.3),
    Goal(Case("ZeroDiagonal", 256, 32), OURS, BY_ZEROS, 1.05),
    Goal(Case("NegExpDiagonal", 256, 32), OURS, BY_EXP, 1.05),
    Goal(Case("MaskedSparse", 256, 32, 0.1), OURS, BY_MASK, 1.05),
    *(
        Goal(case, f"{OURS}, compiled", (f"{REGISTERED}, compiled",), 1.0)
        for case in (
            *(Case(name, n, 32) for name in ("Diagonal", *REPLACED) for n in (1024, 4096)),
            Case("MaskedSparse", 4096, 32, 0.01),
            Case("MaskedSparse", 4096, 32, structure="block_diagonal(8)"),
        )
    ),
)
