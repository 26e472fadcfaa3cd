"""The command ``python -m parametrizations``, run in this process."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch import nn

CONSTRAINTS = ("Diagonal", "ZeroDiagonal", "NegExpDiagonal", "MaskedSparse")
STORED = ("64", "4,096", "4,096", "410")

Tour = Callable[..., str]


@pytest.fixture
def tour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Tour]:
    """A function that runs the command and returns its output. PyTorch's number of threads is restored afterwards."""
    threads = torch.get_num_threads()

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["parametrizations", *arguments])
        runpy.run_module("parametrizations", run_name="__main__")
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)


def test_the_tour_ends_in_a_table_a_picture_and_weights(tmp_path: Path, tour: Tour) -> None:
    printed = tour("--epochs", "2", "--out", str(tmp_path / "new" / "folder"))
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if "/44" in line}
    for name in CONSTRAINTS:
        assert "44/44" in rows[name], "the constraint held after every step"
        assert float(rows[name][-1]) < 2e-5, "baking moved the outputs, which reach about 10"
    with Image.open(tmp_path / "new" / "folder" / "weights.png") as picture:
        assert picture.size[0] > 1000
    assert "their outputs differ by 0.0e+00" in printed


def test_the_table_has_the_stored_numbers_of_each_weight_below_headings_of_one_line(
    tour: Tour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = tour("--epochs", "1").splitlines()
    head = next(place for place, line in enumerate(lines) if line.split()[:1] == ["constraint"])
    assert lines[head].split() == ["constraint", "weight", "stored", "dense", "registered", "trained", "held", "bake"]
    linear = {name: f"{name} 64 x 64 {stored} 4,096" for name, stored in zip(CONSTRAINTS, STORED, strict=True)}
    begins = ["unconstrained - - -", *linear.values(), "16 x 1 x 3 x 3 36 144"]
    for line, begin in zip(lines[head + 2 :], begins, strict=False):
        assert " ".join(line.split()).startswith(begin)


def test_the_picture_has_a_panel_for_each_constraint_with_one_colour_bar(
    tmp_path: Path, tour: Tour, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    tour("--epochs", "1", "--out", str(tmp_path))
    *panels, bar = figures[0].axes
    assert [panel.get_title() for panel in panels] == list(CONSTRAINTS)
    assert bar.get_ylabel()
    weights = load_file(tmp_path / "baked.safetensors")
    for panel in panels:
        [image] = panel.images
        shown, weight = image.get_array(), weights[f"{panel.get_title()}.0.weight"]
        assert shown is not None
        assert (np.ma.getmaskarray(shown) == (weight == 0).numpy()).all(), "exact zeros have the colour behind"
        assert image.get_clim() == panels[0].images[0].get_clim()


def test_every_copy_trains_on_the_same_batches_in_the_same_order(tmp_path: Path, tour: Tour) -> None:
    tour("--epochs", "1", "--constraint", "ZeroDiagonal", "--out", str(tmp_path / "first"))
    tour("--epochs", "1", "--constraint", "Diagonal", "--constraint", "ZeroDiagonal", "--out", str(tmp_path / "second"))
    first, second = (load_file(tmp_path / folder / "baked.safetensors") for folder in ("first", "second"))
    assert all(torch.equal(second[key], weight) for key, weight in first.items())


def test_the_written_weights_are_plain_and_keep_the_constraint(tmp_path: Path, tour: Tour) -> None:
    tour("--epochs", "1", "--constraint", "MaskedSparse", "--out", str(tmp_path))
    state = load_file(tmp_path / "baked.safetensors")
    classifier = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    plain = nn.Sequential(nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)), *classifier)
    plain.load_state_dict({key.removeprefix("MaskedSparse."): value for key, value in state.items()})
    kept = [int(torch.count_nonzero(plain[place].get_parameter("weight"))) for place in (0, 2)]
    assert kept == [round(0.1 * 64 * 64), round(0.25 * 16 * 9)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--constraint", "Symmetric"],
            "invalid choice: 'Symmetric' (choose from",
        ),
        (["--epochs", "none"], "needs a whole number from 1. Got 'none'."),
        (["--epochs", "0"], "needs a whole number from 1. Got '0'."),
        (["--device", "abacus"], "needs a device of this machine. Got 'abacus'"),
        (["--device", "meta"], "needs a device of this machine. Got 'meta'"),
        (["--out", f"{__file__}/folder"], "needs a folder to write to. Got"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_exit_code_2(
    arguments: list[str], line: str, tour: Tour, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tour(*arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_file_that_cannot_be_written_is_found_before_training(
    tmp_path: Path, tour: Tour, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.png").mkdir()
    with pytest.raises(SystemExit):
        tour("--out", str(tmp_path))
    printed = capsys.readouterr()
    assert "needs a folder to write to" in printed.err
    assert printed.out == ""


def test_a_wrong_option_leaves_no_folder(tmp_path: Path, tour: Tour) -> None:
    with pytest.raises(SystemExit):
        tour("--out", str(tmp_path / "new"), "--epochs", "0")
    assert not (tmp_path / "new").exists()


def test_a_missing_extra_gets_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tour: Tour, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("sklearn", "rich", "matplotlib", "safetensors"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as ended:
        tour()
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.count("\n") == 1
    assert "the tour needs scikit-learn, rich, matplotlib, safetensors. Run: pip install" in printed


def test_help_needs_no_extra() -> None:
    command = [sys.executable, "-m", "parametrizations", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for option in ("--constraint", "--epochs", "--device", "--out"):
        assert option in done.stdout
