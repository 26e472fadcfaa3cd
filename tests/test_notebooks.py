"""The committed notebooks run and reproduce their committed outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.notebooks import FOLDER, PATHS, PICTURES, outputs, pictures, read, run, steady_text

COUNTED = {"6_what_it_costs"}
"""Whose text, but for timings, is the same on every machine."""


def notebook_of(*sources: str) -> Any:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]  # type: ignore[no-untyped-call]
    return nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook(path: Path) -> None:
    committed = read(path)
    ran = run(read(path))
    assert [output.text for output in outputs(ran) if output.get("name") == "stderr"] == []
    assert [output.output_type for output in outputs(ran)] == [output.output_type for output in outputs(committed)]
    if path.stem in COUNTED:
        assert steady_text(ran) == steady_text(committed)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_is_short_asserts_and_has_its_outputs(path: Path) -> None:
    cells = read(path).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert len(cells) < 20
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(cell.source.count("assert ") for cell in code) >= 3
    assert pictures(read(path))
    assert "site-packages" not in path.read_text()  # part of a traceback with local paths


def test_the_readme_shows_pictures_that_are_in_notebooks() -> None:
    readme = (FOLDER.parent / "README.md").read_text()
    for stem, picture in PICTURES.items():
        assert f"(notebooks/{picture})" in readme
        assert (FOLDER / picture).read_bytes() == pictures(read(FOLDER / f"{stem}.ipynb"))[0]


def test_the_readme_leads_to_every_notebook() -> None:
    readme = (FOLDER.parent / "README.md").read_text()
    assert [path.name for path in PATHS if f"(notebooks/{path.name})" not in readme] == []


def test_there_are_notebooks() -> None:
    assert [path.name.split("_")[0] for path in PATHS] == ["1", "2", "3", "3b", *"456789", "10", "11", "12", "13"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_leads_to_the_next_and_to_the_manual(path: Path) -> None:
    last = read(path).cells[-1].source
    following = PATHS[PATHS.index(path) + 1 :][:1]
    assert all("\nNext: [" in last and f"({after.name})" in last for after in following)
    assert "In the manual: " in last.replace("In the manual:\n", "In the manual: ")
    assert "](../docs/" in last


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_picture_can_be_read_aloud(path: Path) -> None:
    for cell in read(path).cells:
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 40


def test_a_number_that_moved_fails() -> None:
    with pytest.raises(CellExecutionError, match="AssertionError"):
        run(notebook_of("number = 5.98", "assert number < 5"))


def test_a_warning_is_seen() -> None:
    ran = run(notebook_of("import warnings; warnings.warn('old')"))
    assert [output.name for output in outputs(ran)] == ["stderr"]
