"""What a run has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.cases import Case
from benchmarks.goals import Goal
from benchmarks.measure import Timing
from benchmarks.profiles import Profile
from parametrizations.typing import Explanation as Path

__all__ = ["Measured", "Results"]


@dataclass(frozen=True)
class Measured:
    """One case: how our fused layer multiplies, and the time of every contestant."""

    path: Path
    timings: Mapping[str, Timing]

    @property
    def base(self) -> str:
        """The contestant that the others are multiples of: the first."""
        return next(iter(self.timings))

    def multiple(self, name: str) -> float:
        """The time of a contestant as a multiple of the base's."""
        return self.timings[name].median / self.timings[self.base].median


@dataclass(frozen=True)
class Results:
    """Everything that the report shows: ratios by goal, figures in words, megabytes."""

    origin: str
    cases: Mapping[Case, Measured]
    goals: Mapping[Goal, float]
    further: Mapping[str, str]
    memory: Mapping[str, float]
    profiles: tuple[Profile, ...]
