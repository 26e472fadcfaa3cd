"""The committed notebooks run and reproduce their committed outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.notebooks import FOLDER, PATHS, PICTURES, outputs, pictures, read, run, steady_text

COUNTED = {"6_what_it_costs"}
"""Whose text, but for timings, is the same on every machine."""

GIVEN = {"2_zero_diagonal_item_to_item": {0.008, 0.014, 0.018, 0.026, 0.027}}
"""Figures in the text that no output and no code shows: of other splits, which `tests.test_recommender` checks."""

NO_CLAIM = re.compile(r"\]\([^)]*\)|arXiv[:\s]\d+\.\d+|\b(?:19|20)\d\d\b")
"""Links, papers and years."""

NUMBER = re.compile(r"(?<![\w.,/])(\d+(?:,\d{3})*)(\.\d+)?(?!\.?\d|\w)(\s?%| times)?")
"""The digits before the point, the decimals, and the unit."""


def notebook_of(*sources: str) -> Any:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]  # type: ignore[no-untyped-call]
    return nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]


def unsupported(notebook: Any, given: set[float] | None = None) -> list[str]:
    """The numbers in the text and in the descriptions of pictures that the code and its outputs do not contain.

    Counts decimal numbers, percentages, "x times", and numbers of three digits. They may be rounded.
    """
    text: list[str] = []
    support: list[str] = []
    for cell in notebook.cells:
        (text if cell.cell_type == "markdown" else support).append(cell.source)
        text.append(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", ""))
        for output in cell.get("outputs", []):
            support.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    known = {float(number) for number in re.findall(r"\d[\d_]*(?:\.\d+)?(?:e[-+]?\d+)?", "\n".join(support))}
    missing = []
    for match in re.finditer(NUMBER, NO_CLAIM.sub("", "\n".join(text))):
        whole, decimals, unit = match.groups(default="")
        number, digits = float(whole.replace(",", "") + decimals), max(len(decimals) - 1, 0)
        scales = (1, 100) if "%" in unit else (1,)  # the code may have a fraction
        if (decimals or unit or number >= 100) and not any(
            round(scale * value, digits) == number for value in known | (given or set()) for scale in scales
        ):
            missing.append(match[0])
    return missing


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


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_figures_in_the_text_are_in_the_outputs_or_the_code(path: Path) -> None:
    assert unsupported(read(path), GIVEN.get(path.stem)) == []


def test_a_changed_figure_in_the_text_is_seen() -> None:
    notebook = notebook_of("accuracies = {'SET': 0.876, 'RigL': 0.939}; density = 0.02; users = 1_400")
    text = "RigL reaches {}, SET {} with {} of the weights of {} users (Evci et al. 2020, arXiv 1911.11134)."
    for figures, wanted in (
        (("0.94", "0.876", "2 %", "1,400"), []),
        (("0.95", "0.89", "3 %", "1,300"), ["0.95", "0.89", "3 %", "1,300"]),
    ):
        cell = nbformat.v4.new_markdown_cell(text.format(*figures))  # type: ignore[no-untyped-call]
        notebook.cells[1:] = [cell]
        assert unsupported(notebook) == wanted


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
