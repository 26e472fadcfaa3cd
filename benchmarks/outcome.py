"""Which figures are reached, in a line and in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.goals import Goal
from benchmarks.tables import table

__all__ = ["found", "outcomes"]


def found(goals: Mapping[Goal, float]) -> str:
    """How many of the goals are reached, by constraint, and which one is furthest from being so."""
    reached = [goal.case.constraint for goal, ratio in goals.items() if goal.is_reached(ratio)]
    asked = [goal.case.constraint for goal in goals]
    counts = ", ".join(f"{name} {reached.count(name)} of {asked.count(name)}" for name in dict.fromkeys(asked))
    return f"{len(reached)} of {len(asked)} goals are reached: {counts}.{_furthest(goals)}"


def _furthest(goals: Mapping[Goal, float]) -> str:
    goal, ratio = max(goals.items(), key=lambda item: item[1] / item[0].most)
    if goal.is_reached(ratio):
        return ""
    return f" The furthest from its goal is {goal.case}, at {ratio:.3g} where {goal.most} is asked for."


def outcomes(goals: Mapping[Goal, float]) -> str:
    """A row for each goal."""
    return table(("work", "contestant", "beside", "ratio", "goal", "outcome"), _rows(goals))


def _rows(goals: Mapping[Goal, float]) -> Iterator[tuple[str, ...]]:
    for goal, ratio in goals.items():
        outcome = "reached" if goal.is_reached(ratio) else "[not reached](limits.md)"
        beside = " or ".join(f"`{other}`" for other in goal.others)
        yield str(goal.case), goal.contestant, beside, f"{ratio:.3g}", f"<= {goal.most}", outcome
