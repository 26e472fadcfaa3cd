"""The comparison in the notebook on recommenders holds for other splits, and the notebook runs without its data."""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebooks import FOLDER, outputs, read, run

WHEEL = next(FOLDER.glob("recbole-*.whl"), None)


def notebook() -> Any:
    return read(FOLDER / "2_zero_diagonal_item_to_item.ipynb")


@pytest.mark.slow
def test_without_the_wheel_the_notebook_takes_the_digits(tmp_path: Path) -> None:
    """Also without its last experiment, which has no data."""
    short = notebook()
    short.cells = [cell for cell in short.cells if not cell.source.startswith("%%script")]
    assert len(short.cells) == len(notebook().cells) - 1
    ran = outputs(run(short, tmp_path))
    assert ran[0].text.startswith("digits: 1797 users, 64 items")
    assert [output.text for output in ran if output.get("name") == "stderr"] == []


@pytest.mark.slow
@pytest.mark.skipif(WHEEL is None, reason="RecBole's wheel, which has the data, is not in the notebooks' folder")
@pytest.mark.parametrize(("split", "differences"), [(1, (-0.014, -0.004)), (2, (-0.008, -0.004)), (3, (-0.001, 0.002))])
def test_sparse_layers_are_close_to_ease_on_other_splits(split: int, differences: tuple[float, float]) -> None:
    made = notebook()
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    definitions = list(takewhile(lambda cell: "plt.subplots" not in cell.source, code))
    definitions[0].source = definitions[0].source.replace("SPLIT = 0", f"SPLIT = {split}")
    call = "import json\nprint(json.dumps(final | {'dense': {name: dense[name].mean().item() for name in dense}}))"
    made.cells = [*definitions, nbformat.v4.new_code_cell(call)]  # type: ignore[no-untyped-call]
    found: dict[str, dict[str, float]] = json.loads(outputs(run(made))[-1].text)
    ease, trained = found["dense"]["EASE"], found["trained"]
    assert [trained[count] - ease for count in ("50", "100")] == pytest.approx(differences, abs=0.004)
    assert -0.032 < trained["20"] - ease < -0.013
    assert abs(ease - found["dense"]["ridge"]) < 0.01
    assert 0.02 < trained["50"] - found["cosine"]["50"] < 0.042
    assert trained["50"] > found["EASE, cut"]["50"]
