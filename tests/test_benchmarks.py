"""The benchmark's data fit each other, so that a long run does not fail at its end; its report says what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks import remasking
from benchmarks.cases import LOOPS, SMALL, Case, cases
from benchmarks.contestants import OURS, PLAIN, STRUCTURED, contestants
from benchmarks.further import NEEDED
from benchmarks.goals import GOALS, Goal
from benchmarks.measure import FORWARDS, STEPS, Timing, take_turns, work_of
from benchmarks.picture import picture
from benchmarks.profiles import PROFILED, Profile
from benchmarks.report import report
from benchmarks.results import Measured, Results
from parametrizations.masks import MaskRule
from parametrizations.typing import Explanation

CASE = Case("Diagonal", 4096, 128)
COMPARED = [(goal.case, {goal.contestant, *goal.others}) for goal in GOALS] + [
    (case, set(names)) for case, names in PROFILED.items()
]


def results_of(ours: float) -> Results:
    """By hand takes a hundredth of a plain layer, and ours so many times that; in another case ours is missing."""
    milliseconds = {PLAIN: 100.0, "x * w + b": 1.0, OURS: ours}
    timings = {name: Timing(median, 0.5 * median, 2 * median, ()) for name, median in milliseconds.items()}
    path = Explanation("elementwise", "it is the fastest")
    without = {name: timing for name, timing in timings.items() if name != OURS}
    goal = Goal(CASE, OURS, ("x * w + b",), 1.1)
    return Results(
        origin="Written today.",
        cases={CASE: Measured(path, timings), replace(CASE, batch=8): Measured(path, without)},
        goals={goal: goal.ratio(timings)},
        further={"a step": "two of a plain one"},
        memory={"a layer": 172.4},
        profiles=(Profile(CASE, OURS, (("aten::mul", 0.756), ("aten::sum", 0.29))),),
    )


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("case", [goal.case for goal in GOALS], ids=str)
def test_a_full_run_measures_the_case_of_every_goal(case: Case) -> None:
    assert case in set(cases(quick=False))


@pytest.mark.parametrize(
    "case", SMALL + LOOPS[:5] + (Case("MaskedSparse", 64, 4, structure="banded(64, 64)"),), ids=str
)
def test_every_kind_of_work_runs(case: Case) -> None:
    layer, calls = nn.Linear(case.n, case.n), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    layer.register_forward_hook(count)
    work_of(layer, case, torch.device("cpu"))()
    assert calls == {"step": 1, "forward": FORWARDS, "loop": STEPS}[case.work]


@pytest.mark.parametrize("quick", [False, True])
def test_every_run_measures_what_the_further_figures_need(quick: bool) -> None:
    assert set(cases(quick=quick)) >= set(NEEDED)


@pytest.mark.parametrize(
    ("case", "names"), COMPARED, ids=lambda part: str(sorted(part) if isinstance(part, set) else part)
)
def test_there_is_a_contestant_of_every_name(case: Case, names: set[str]) -> None:
    compiled = any("compiled" in name for name in names)
    made = contestants(replace(case, n=256), torch.device("cpu"), compiled=compiled)
    assert set(made) >= names


@pytest.mark.parametrize(
    ("ours", "found", "outcome"),
    [
        (1.1, "1 of 1 goals are reached: Diagonal 1 of 1.", "reached"),
        (
            1.2,
            "0 of 1 goals are reached: Diagonal 0 of 1. The furthest from its goal is Diagonal n=4096, batch=128, at "
            "1.2 where 1.1 is asked for.",
            "[not reached](limits.md)",
        ),
    ],
)
def test_the_report_says_first_which_goals_are_reached(ours: float, found: str, outcome: str) -> None:
    text = report(results_of(ours))
    assert text.splitlines()[2] == found
    assert ["Diagonal n=4096, batch=128", OURS, "`x * w + b`", f"{ours}", "<= 1.1", outcome] in rows_of(text)


def test_the_report_has_a_row_for_each_case_with_its_path_and_a_cell_for_each_contestant() -> None:
    rows = rows_of(report(results_of(1.7)))
    start = rows.index(["features", "batch", "path", "nn.Linear, ms", "x * w + b", OURS])
    assert rows[start + 2] == ["4096", "8", "elementwise", "100.000 (50.000 to 200.000)", "0.01", ""]
    assert rows[start + 3] == ["4096", "128", "elementwise", "100.000 (50.000 to 200.000)", "0.01", "0.017"]


@pytest.mark.parametrize("rule", remasking.MOVES.values(), ids=remasking.MOVES)
def test_every_move_that_is_measured_moves_a_mask(rule: Callable[[remasking.Training], MaskRule]) -> None:
    training = remasking.Training(64, remasking.DENSITY)
    with torch.no_grad():
        training.layer.parametrizations.weight.original.normal_()
    before = training.layer.parametrizations.weight[0].mask
    training.moved_by(rule)()
    training.step()
    after = training.layer.parametrizations.weight[0].mask
    assert int(after.sum()) == int(before.sum()) == 41
    assert torch.equal(before, after) == ("magnitude" in repr(rule(training)))


def test_the_picture_names_its_batches_and_sizes_and_draws_who_takes_part_at_every_size() -> None:
    def measured(*names: str) -> Measured:
        return Measured(
            Explanation("dense", "it is small"), {name: Timing(1.0, 1.0, 1.0, ()) for name in (PLAIN, *names)}
        )

    cases = {Case("MaskedSparse", 4096, 128, 0.1): measured(OURS)}
    for constraint in ("Diagonal", "ZeroDiagonal", "NegExpDiagonal"):
        cases[Case(constraint, 256, 32)] = measured("by hand", OURS, STRUCTURED)
        cases[Case(constraint, 4096, 128)] = measured("by hand", OURS)
        cases[Case(constraint, 32, 32, work="forward")] = measured("by hand", OURS)
        cases[Case(constraint, 64, 32, work="loop")] = measured(OURS)
    panel = picture(cases).axes[1]
    assert panel.get_title() == "ZeroDiagonal, batch 32 or 128"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["256", "4096"]
    assert panel.get_legend_handles_labels()[1] == ["by hand", OURS]


def test_no_contestant_always_comes_after_the_same_one() -> None:
    seen: list[str] = []
    taken = take_turns({name: partial(seen.append, name) for name in "abc"}, 0, least=7)
    rounds = ["".join(seen[start : start + 3]) for start in range(6, len(seen), 3)]
    assert len(rounds) == 7
    assert len(set(rounds)) > 1
    assert {frozenset(turn) for turn in rounds} == {frozenset("abc")}
    assert all(len(timing.times) == 7 for timing in taken.values())
