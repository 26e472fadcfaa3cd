"""The GPU benchmark, tested on the CPU: its contestants, its report, and its command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.cases import Case
from benchmarks.contestants import ours
from benchmarks.gpu import PRODUCTS, WEIGHTS, on_device
from tests.test_benchmarks import passed, tables

CPU = torch.device("cpu")


def test_every_constraint_is_measured_in_both_dtypes() -> None:
    text = on_device(CPU, [(16, 2)], seconds=0)
    (rows,) = tables(text)
    wanted = [Case(constraint, 16, 2, mask).weight for constraint, mask in WEIGHTS]
    assert [(row[0], row[3]) for row in rows] == [(name, kind) for name in wanted for kind in ("float32", "bfloat16")]
    assert all(len([cell for cell in row[4:] if cell]) >= 3 for row in rows)  # nn.Linear, by hand and a product
    assert torch.__version__ in text


@pytest.mark.parametrize(("constraint", "mask"), WEIGHTS)
def test_products_agree_in_output_and_gradients(constraint: str, mask: str) -> None:
    inputs, grad = torch.randn(2, 3, 136).unbind()
    results = []
    for product in ("auto", *PRODUCTS[constraint]):
        torch.manual_seed(0)
        layer = ours(Case(constraint, 136, 3, mask), product)
        results.append((*passed(layer, inputs, grad), *passed(layer, inputs, grad)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_results_of_a_gpu_go_to_a_file_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "on_device", lambda device, shapes: f"{device.type}, {len(shapes)} shapes")
    command.main(["--device", "meta", "--quick", "--out", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["results-meta.md"]
    assert (tmp_path / "results-meta.md").read_text() == "meta, 1 shapes"


def test_a_device_of_another_machine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["--device", "nowhere"])
    assert "argument --device: needs a device of this machine. Got 'nowhere'." in capsys.readouterr().err
