"""The program for a GPU, run on the CPU: it reports every check, and leaves what it knows when it is cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tools import gpu

CPU = torch.device("cpu")


def rows(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a part that checks two constraints, without the slow checks."""
    two = {name: gpu.CONSTRAINTS[name] for name in ("Diagonal", "MaskedSparse, 8 blocks, strips")}
    slow = (gpu.laws, gpu.compiles, gpu.compiles_with_less_overhead)
    monkeypatch.setattr(gpu, "CONSTRAINTS", two)
    monkeypatch.setattr(gpu, "CHECKS", {check: kinds for check, kinds in gpu.CHECKS.items() if check not in slow})
    return []


def test_every_check_is_reported_for_every_constraint(lines: list[str]) -> None:
    gpu.correctness(CPU, lines.append)
    found = rows(lines)
    assert {(row[0], row[1]) for row in found} == {
        (check.__name__, name) for check in gpu.CHECKS for name in gpu.CONSTRAINTS
    }
    assert {row[2] for row in found if row[0] == "agrees_with_the_dense_weight"} == {"float32", "bfloat16", "float16"}
    assert {row[3] for row in found if row[0] == "is_captured_in_a_graph"} == {"skipped: for CUDA"}
    assert {row[3] for row in found if row[0] != "is_captured_in_a_graph"} == {"ok"}


def test_a_wrong_gradient_is_reported(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    honest: Any = gpu._passed

    def passed(call: Any, layer: nn.Linear, x: torch.Tensor) -> list[torch.Tensor]:
        output, *gradients = honest(call, layer, x)
        return [output, *(2 * gradient for gradient in gradients)] if call is layer else [output, *gradients]

    monkeypatch.setattr(gpu, "_passed", passed)
    gpu.correctness(CPU, lines.append)
    outcomes = [row[3] for row in rows(lines) if row[0] == "agrees_with_the_dense_weight"]
    assert all(outcome.startswith("FAIL: AssertionError: Tensor-likes are not close") for outcome in outcomes)


def test_a_part_stops_when_its_time_is_over(lines: list[str]) -> None:
    gpu.correctness(CPU, lines.append, seconds=-1)
    assert not rows(lines)
    assert lines[-1] == "\nStopped: the time is over."


def test_speed_names_every_contestant(lines: list[str]) -> None:
    gpu.speed(CPU, lines.append, shapes=[(16, 2)], compiled=())
    found = rows(lines)
    assert len(found) == 2 * len(gpu.KINDS)
    others = {(row[0], row[3]): {part.rsplit(" ", 1)[0] for part in row[5].split(", ")} for row in found}
    triangle = others["MaskedSparse, lower_triangular(): dense", "float32"]
    assert triangle == {"by hand", "weight * mask", "prune", "dense", "strips", "cuSPARSE", "arange", "ours"}
    assert others["Diagonal: elementwise", "float32"] == {"by hand", "ours"}
    assert "replaced-diagonal" in others["ZeroDiagonal: dense", "bfloat16"]


@pytest.mark.usefixtures("lines")
def test_the_file_has_what_was_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.md"
    gpu.main(["correctness", "synchronisation", "semi_structured", "--device", "cpu", "--out", str(file)])
    text = file.read_text()
    gpu.main(["semi_structured", "--device", "cpu", "--out", str(file)])
    assert file.read_text().startswith(text), "a further part is appended"
    assert file.read_text() == capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## correctness",
        "## synchronisation",
        "## semi_structured",
    ]


def test_a_device_of_another_machine_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--device", "nowhere", "--out", str(tmp_path / "gpu.md")])
    assert "argument --device: needs a device of this machine. Got 'nowhere'." in capsys.readouterr().err
    assert not (tmp_path / "gpu.md").exists()
