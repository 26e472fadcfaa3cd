"""The benchmark for a GPU, as far as a CPU can tell: its contestants, its clock, its report, and where that goes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import __main__ as command_line
from benchmarks import on_gpu
from benchmarks.cases import TWO_OF_FOUR, Case, mask_of
from benchmarks.contestants import PLAIN
from benchmarks.measure import Timing, clock_of
from benchmarks.on_gpu import PRECISIONS, Setting, Timed, grid, measured, report
from benchmarks.ways import ways
from tests.test_benchmarks import rows_of

CPU, SIDE = torch.device("cpu"), 136
KINDS = dict.fromkeys(replace(setting.case, n=SIDE, batch=3, work="step") for setting in grid(quick=False))
LINEAR = Setting(Case("MaskedSparse", SIDE, 3, structure=TWO_OF_FOUR), "bfloat16")


def kept(case: Case) -> Tensor:
    """Where the weight may be other than zero."""
    diagonal = torch.eye(case.n, dtype=torch.bool)
    masks = {"Diagonal": diagonal, "ZeroDiagonal": ~diagonal, "NegExpDiagonal": torch.ones_like(diagonal)}
    return masks[case.constraint] if case.constraint in masks else mask_of(case)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_every_contestant_has_the_constraint_and_the_gradient_of_its_weight(case: Case) -> None:
    layers = {name: build().double() for name, build in ways(case, CPU).items() if name != "2:4"}
    assert [name for name in layers if name.startswith("ours")]
    for name, layer in layers.items():
        inputs = torch.cat([torch.zeros(1, case.n), torch.eye(case.n)]).double().requires_grad_()
        grad = torch.randn(1 + case.n, case.n).double()
        output = layer(inputs)
        weight = (output[1:] - output[:1]).mT
        output.backward(grad)
        torch.testing.assert_close(inputs.grad, grad @ weight.detach())
        assert name == PLAIN or not weight[~kept(case)].any()
        assert case.constraint != "NegExpDiagonal" or name == PLAIN or bool((weight.diagonal() < 0).all())


def test_what_does_not_run_is_said_and_the_others_are_timed_in_their_precision() -> None:
    timed = measured(LINEAR, CPU, 0.0)
    assert {PLAIN, "weight * mask", "ours, dense"} <= set(timed.timings)
    assert list(timed.failed) == ["2:4"]
    assert "Only CUDA tensors are currently supported" in timed.failed["2:4"]
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_contestants_multiply_in_the_precision(precision: str) -> None:
    with on_gpu._multiplied_in(precision):
        layers = {name: build() for name, build in ways(Case("ZeroDiagonal", 8, 2), CPU).items()}
        assert torch.get_float32_matmul_precision() == ("high" if "TF32" in precision else "highest")
    for layer in layers.values():
        inputs = torch.ones(2, 8, dtype=PRECISIONS[precision][0])
        assert layer(inputs).dtype is inputs.dtype


def test_a_quick_run_is_a_small_part_of_a_full_one() -> None:
    quick, full = list(grid(quick=True)), list(grid(quick=False))
    assert set(quick) < set(full)
    assert 4 * len(quick) < len(full)
    assert {setting.precision for setting in full} == set(PRECISIONS)


def test_a_gpu_is_timed_by_its_events_when_it_has_nothing_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("record")

        def synchronize(self) -> None:
            said.append("event")

        def elapsed_time(self, end: Any) -> float:
            assert end is not self
            return 7.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("device"))
    assert clock_of(torch.device("cuda"))(lambda: said.append("work")) == 7
    assert said == ["device", "record", "work", "record", "event"]


def test_another_device_is_timed_by_the_wall() -> None:
    done: list[str] = []
    assert clock_of(CPU)(lambda: done.append("work")) > 0
    assert done == ["work"]


def test_the_report_has_a_table_for_each_kind_of_weight_and_says_who_took_no_part() -> None:
    timings = {PLAIN: Timing(2.0, 1.0, 4.0, ()), "ours, CSR": Timing(1.0, 1.0, 1.0, ())}
    few = Case("MaskedSparse", 1024, 128, 0.01)
    found = {
        Setting(few, "float32"): Timed(timings, {}),
        Setting(few, "bfloat16", compiled=True): Timed({PLAIN: timings[PLAIN]}, {"ours, CSR": "RuntimeError: no"}),
        Setting(Case("Diagonal", 1024, 128), "float32"): Timed({}, {PLAIN: "OutOfMemoryError: too large"}),
    }
    text = report(found, CPU, quick=True)
    assert "Written by `python -m benchmarks --device cpu --quick` on" in text
    assert "## MaskedSparse, 1% kept" in text.splitlines()
    assert "- `ours, CSR` did not run everywhere: RuntimeError: no" in text.splitlines()
    assert "- `nn.Linear` did not run everywhere: OutOfMemoryError: too large" in text.splitlines()
    rows = rows_of(text)
    assert ["1024", "128", "float32", "", "2.000 (1.000 to 4.000)", "0.50"] in rows
    assert ["1024", "128", "bfloat16", "compiled", "2.000 (1.000 to 4.000)", ""] in rows


def test_results_of_a_gpu_go_to_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "meta", "--out", str(tmp_path)])
    monkeypatch.setattr(command_line, "device", torch.device)
    monkeypatch.setattr(on_gpu, "grid", lambda *, quick: [LINEAR] if not quick else [])
    monkeypatch.setattr(on_gpu, "measured", lambda *_: Timed({PLAIN: Timing(2.0, 1.0, 4.0, ())}, {}))
    command_line.main()
    assert [file.name for file in tmp_path.iterdir()] == ["results-meta.md"]


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--device", "nowhere"])
    with pytest.raises(SystemExit, match="2"):
        command_line.main()
    assert "argument --device: needs a device of this machine. Got 'nowhere'" in capsys.readouterr().err
