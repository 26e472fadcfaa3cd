"""The comparison in the notebook on sparse convolutions holds for three seeds."""

from __future__ import annotations

import json
from itertools import takewhile

import nbformat
import pytest

from tests.notebooks import FOLDER, outputs, read, run

SEEDS = [0, 1, 2]
METHODS = ["pruned, one threshold", "RigL, uniform", "RigL, ERK"]


@pytest.fixture(scope="module")
def accuracies() -> dict[str, list[float]]:
    """By method, the accuracy for each seed: the notebook's functions, called with other seeds."""
    notebook = read(FOLDER / "10_sparse_convolutions.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    definitions = list(takewhile(lambda cell: not cell.source.startswith("runs = compare("), code))
    assert len(definitions) < len(code)
    call = (
        f"import json\nruns = [compare(seed, {METHODS}) for seed in {SEEDS}]\n"
        "print(json.dumps({name: [run[name][-1] for run in runs] for name in runs[0]}))"
    )
    notebook.cells = [*definitions, nbformat.v4.new_code_cell(call)]  # type: ignore[no-untyped-call]
    made: dict[str, list[float]] = json.loads(outputs(run(notebook))[-1].text)
    assert list(made) == ["dense", *METHODS]
    return made


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.slow
def test_a_tenth_of_the_weights_is_nearly_as_good_as_all(accuracies: dict[str, list[float]]) -> None:
    assert min(accuracies["dense"]) > 0.95
    for name in ("pruned, one threshold", "RigL, ERK"):
        assert mean(accuracies[name]) > mean(accuracies["dense"]) - 0.05


@pytest.mark.slow
def test_rigl_needs_large_shares_of_small_layers(accuracies: dict[str, list[float]]) -> None:
    gaps = [erk - uniform for erk, uniform in zip(accuracies["RigL, ERK"], accuracies["RigL, uniform"], strict=True)]
    assert min(gaps) > 0
    assert mean(gaps) > 0.05
