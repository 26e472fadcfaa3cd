from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from parametrizations._tour.classifier import load, new_classifier, train
from parametrizations._tour.command_line import CONSTRAINTS, main


def test_the_tour_ends_in_a_table_a_picture_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--epochs", "2", "--out", str(tmp_path / "new" / "folder")])
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if "/44" in line}
    for name in CONSTRAINTS:
        assert "44/44" in rows[name], "the constraint held after every step"
        assert float(rows[name][-1]) < 2e-5, "baking moved the outputs, which reach about 10"
    with Image.open(tmp_path / "new" / "folder" / "weights.png") as picture:
        assert picture.size[0] > 1000
    assert "their outputs differ by 0.0e+00" in printed


def test_every_copy_trains_on_the_same_batches_in_the_same_order() -> None:
    digits, first = load(torch.device("cpu")), new_classifier()
    second = copy.deepcopy(first)
    for model in (first, second):
        train(model, digits, 1, lambda: None)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_the_tour_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    main(["--epochs", "1", "--constraint", "Diagonal"])
    assert torch.get_num_threads() == before


def test_the_written_weights_are_plain_and_keep_the_constraint(tmp_path: Path) -> None:
    main(["--epochs", "1", "--constraint", "MaskedSparse", "--out", str(tmp_path)])
    state = load_file(tmp_path / "baked.safetensors")
    sizes = [(64, 32), (32, 32), (32, 48), (48, 10)]
    plain = nn.Sequential()
    for i, (columns, rows) in enumerate(sizes):
        plain.append(nn.Linear(columns, rows))
        if i < 3:
            plain.append(nn.ReLU())
    plain.load_state_dict({key.removeprefix("MaskedSparse."): value for key, value in state.items()})
    assert int(torch.count_nonzero(plain[2].get_parameter("weight"))) <= round(0.1 * 32 * 32)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--constraint", "Symmetric"],
            "needs one of Diagonal, ZeroDiagonal, NegExpDiagonal, MaskedSparse. Got 'Symmetric'.",
        ),
        (["--epochs", "none"], "needs a whole number from 1. Got 'none'."),
        (["--epochs", "0"], "needs a whole number from 1. Got '0'."),
        (["--device", "abacus"], "needs a device of this machine. Got 'abacus'"),
        (["--device", "meta"], "needs a device of this machine. Got 'meta'"),
        (["--out", f"{__file__}/folder"], "needs a folder to write to. Got"),
        (["--out", ""], "needs a folder to write to. Got ''."),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert line in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_file_that_cannot_be_written_is_found_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.png").mkdir()
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert "needs a folder to write to" in printed.err
    assert printed.out == ""


def test_a_wrong_option_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "new"), "--epochs", "0"])
    assert not (tmp_path / "new").exists()


def test_a_missing_extra_gets_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(SystemExit) as ended:
        main([])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.count("\n") == 1
    assert "the tour needs scikit-learn, rich, matplotlib, safetensors. Run: pip install" in printed


def test_help_needs_no_extra() -> None:
    command = [sys.executable, "-m", "parametrizations", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for option in ("--constraint", "--epochs", "--device", "--out"):
        assert option in done.stdout
