"""The benchmark compares equal layers, in random order, and reports every measured case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks import __main__ as command
from benchmarks.cases import ROWS, SPARSE, USERS, WAYS, Case, cases
from benchmarks.contestants import BY_HAND, MASK_WAYS, OURS, PLAIN, contestants
from benchmarks.growth import SETTINGS, grow
from benchmarks.growth import summary as summary_of_growth
from benchmarks.measure import STEPS, take_turns, work_of
from benchmarks.picture import PANELS, picture
from benchmarks.products import Choice, compare, summary
from benchmarks.report import GOALS
from benchmarks.training import time_to_move

SIDE, BATCH = 136, 3
KINDS = tuple(dict.fromkeys(Case(case.constraint, SIDE, BATCH, case.mask) for case in cases(quick=False)))


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, without its header."""
    blocks = (block.splitlines() for block in text.split("\n\n") if block.startswith("|"))
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block[2:]] for block in blocks]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for a run of the command with small layers and made-up times."""

    def turns(works: Mapping[str, object], **_: object) -> dict[str, float]:
        return {name: 1.0 + place for place, name in enumerate(works)}

    monkeypatch.setattr(command, "contestants", lambda case: contestants(replace(case, features=8)))
    monkeypatch.setattr(command, "work_of", lambda *_: None)
    monkeypatch.setattr(command, "take_turns", turns)
    monkeypatch.setattr(command, "time_to_move", lambda: dict.fromkeys("abcd", 1.0))
    monkeypatch.setattr(command, "memory", lambda: dict.fromkeys("abcd", 1.0))
    return tmp_path


def passed(layer: nn.Module, inputs: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradient with respect to the input; the parameters take a gradient step."""
    inputs = inputs.clone().requires_grad_()
    output = layer(inputs)
    output.backward(grad)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert inputs.grad is not None
    return output.detach(), inputs.grad


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case.weight)
def test_contestants_agree_in_output_and_gradients(case: Case) -> None:
    inputs, grad = torch.randn(2, BATCH, SIDE).unbind()
    layers = contestants(case)
    assert set(layers) >= {PLAIN, OURS, BY_HAND, *(MASK_WAYS if case.constraint == SPARSE else ())}
    first = {name: passed(layer, inputs, grad) for name, layer in layers.items()}
    then = {name: passed(layer, inputs, grad) for name, layer in layers.items()}
    for name in layers:
        torch.testing.assert_close(first[name], first[OURS], msg=partial("{}: {}".format, name))
        if name != PLAIN:  # it has other free parameters
            torch.testing.assert_close(then[name], then[OURS], msg=partial("{}: {}".format, name))


def test_a_full_run_prints_every_case(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--out", str(written)])
    text = (written / "results.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert len(text.splitlines()) <= 150
    assert text.splitlines()[2].startswith("| constraint ")
    assert torch.__version__ in text
    users, sizes, loops, ways, further, goals = tables(text)
    assert [len(rows) for rows in (users, sizes, ways, further, goals)] == [
        len(USERS),
        len(ROWS),
        len(WAYS),
        8,
        len(GOALS),
    ]
    assert all(all(row) for row in users + ways + goals)
    shown = [cell for row in sizes + loops for cell in row[4:] if cell]
    assert len(shown) == len(cases(quick=False))
    assert all("/" in cell for cell in shown)
    assert (written / "results.png").stat().st_size > 0


def test_a_quick_run_prints_the_users_table(written: Path) -> None:
    command.main(["--quick", "--out", str(written)])
    users, *_ = tables((written / "results.md").read_text())
    assert [row[:3] for row in users] == [[case.weight, f"{case.features}", f"{case.batch}"] for case in USERS]
    assert set(cases(quick=True)) < set(cases(quick=False))


def test_the_picture_has_one_scale_and_shows_every_time() -> None:
    cases = [case for panel in PANELS.values() for case in panel.values()]
    times = {case: {PLAIN: 2.0, OURS: 0.1 + place, BY_HAND: 3.0} for place, case in enumerate(cases)}
    figure = picture(times)
    lines = {axis.get_title(): axis.lines for axis in figure.axes}
    assert list(lines) == list(PANELS)
    for title, panel in PANELS.items():
        _, ours, by_hand = lines[title]
        assert list(np.asarray(ours.get_ydata())) == [times[case][OURS] / 2 for case in panel.values()]
        assert list(np.asarray(by_hand.get_ydata())) == [1.5] * len(panel)
    [(low, high)] = {axis.get_ylim() for axis in figure.axes}
    assert low < 0, "no marker near 0 is clipped"
    assert high > max(taken[OURS] for taken in times.values()) / 2
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert 0 <= box.x0 < box.x1 <= figure.get_figwidth(), "no label is clipped"
    assert 0 <= box.y0 < box.y1 <= figure.get_figheight()
    assert len(figure.legends) == 1


def test_the_picture_has_a_bar_for_runs_that_differ_by_more_than_a_fifth() -> None:
    title, panel = next(iter(PANELS.items()))
    first, second, *_ = panel.values()
    runs = [
        {case: {PLAIN: 1.0, OURS: 2.0 * slower, BY_HAND: 1.0} for case, slower in ((first, a), (second, b))}
        for a, b in ((1.0, 1.0), (1.5, 1.19), (0.75, 1.0))
    ]
    figure = picture(*runs)
    [_, ours, bar, by_hand] = next(axis for axis in figure.axes if axis.get_title() == title).lines
    assert list(np.asarray(ours.get_ydata())) == [2, 2], "the line is the first run, as in the tables"
    assert list(np.asarray(by_hand.get_ydata())) == [1, 1]
    assert np.asarray(bar.get_xydata()).tolist() == [[0, 1.5], [0, 3]]
    assert "more than a fifth" in figure.get_supxlabel()
    assert not picture(runs[0]).get_supxlabel()


def test_contestants_take_turns_in_random_order() -> None:
    seen: list[str] = []
    taken = take_turns({name: partial(seen.append, name) for name in "abcd"}, seconds=0, rounds=8)
    runs = seen[4 * 3 :: 3]  # each measurement runs a work three times; two are warm-up runs
    rounds = [tuple(runs[start : start + 4]) for start in range(0, len(runs), 4)]
    assert len(rounds) == 8
    assert {frozenset(turn) for turn in rounds} == {frozenset("abcd")}
    assert len(set(rounds)) > 1
    assert set(taken) == set("abcd")


@pytest.mark.parametrize("work", ["step", "loop", "adam"])
def test_every_work_goes_backward(work: str) -> None:
    layer, caches = nn.Linear(8, 8), []
    layer.register_forward_hook(lambda *_: caches.append(parametrize._cache_enabled))
    before = layer.weight.detach().clone()
    work_of(layer, replace(Case("Diagonal", 8, 2), work=work))()  # type: ignore[arg-type]
    assert len(caches) == (STEPS if work == "loop" else 1)
    assert all(caches) == (work == "loop")
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight, before) == (work != "adam")


def test_products_are_compared_for_every_mask_and_batch() -> None:
    choices = list(compare([64], [1], seconds=0, longest=inf))
    assert len(choices) == 9 * 2
    for choice in choices:
        assert {"auto", "dense", "csr"} <= set(choice.times)
        assert choice.chosen in choice.times
        assert ("strips" in choice.times) == (not choice.case.mask.endswith("%"))


def test_the_summary_says_how_often_and_how_far_the_choice_is_off() -> None:
    case = Case(SPARSE, 64, 1, "1 %")
    choices = [
        Choice(case, "csr", {"auto": 2.0, "dense": 1.0, "csr": 1.5}),
        Choice(replace(case, batch=32), "dense", {"auto": 1.2, "dense": 1.2, "csr": 1.0}),
        Choice(replace(case, batch=128), "dense", {"auto": 9.0, "dense": 1.0, "csr": 1.0}),
    ]
    text = summary(choices, "Written today.")
    assert "In 2 of 3 cases (67%" in text
    assert "1.50 (goal: 2) at batch 1, and 1.20 (goal: 1.25) from batch 32" in text
    assert [row[4:6] for row in tables(text)[0]] == [["csr", "1.50"], ["dense", "1.20"]]


def test_every_rule_moves_a_mask_beside_training() -> None:
    assert list(time_to_move(64, 0.1, seconds=0)) == ["evolutionary", "magnitude", "random", "rigl"]


def test_the_growth_of_costs_is_measured_for_each_step() -> None:
    growth = grow([(300, 200)], runs=1)
    (steps,) = growth.values()
    assert list(steps) == ["register", "initialise", "forward", "backward", "Adam", "SET", "random"]
    assert all(seconds > 0 for seconds, _ in steps.values())
    (times, memory) = tables(summary_of_growth(growth, "Here."))
    assert times[0][:2] == memory[0][:2] == ["300", "200"]


def test_the_exponents_of_growth_come_from_tenfold_numbers() -> None:
    growth = {(n, kept): {"step": (1e-9 * n * kept**0.5, 1e-6 * kept)} for n, kept in SETTINGS}
    times, memory = tables(summary_of_growth(growth, "Here."))
    assert [row[2] for row in times[-2:]] == ["0.50", "1.00"]
    assert [row[2] for row in memory[-2:]] == ["1.00", "0.00"]
