"""The notebooks: ``python -m tests.notebooks [NAME ...]`` runs them and saves their outputs."""

from __future__ import annotations

import argparse
import base64
import os
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from rich.progress import track

__all__ = ["FOLDER", "PATHS", "PICTURES", "outputs", "pictures", "read", "run", "steady_text"]

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"), key=lambda path: (int(re.split(r"\D", path.name)[0]), path.name))
PICTURES = {"1_first_steps": "four_constraints.png"}
"""Whose first picture the README shows, and the file that it is in."""


def read(path: Path) -> Any:
    """Read a notebook from its file."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def run(notebook: Any, folder: Path = FOLDER) -> Any:
    """Run the cells of a notebook in a fresh kernel, in the notebooks' folder or another.

    Returns:
        The same notebook with the outputs of its cells.

    Raises:
        nbclient.exceptions.CellExecutionError: At the first cell that fails.
    """
    where = {"metadata": {"path": folder}}
    client = NotebookClient(notebook, timeout=300, resources=where, record_timing=False, coalesce_streams=True)
    # Waiting threads yield: on a busy machine small layers then take a tenth of the time.
    return client.execute(env=os.environ | {"OMP_WAIT_POLICY": "passive"})


def outputs(notebook: Any) -> list[Any]:
    """The outputs of a notebook's cells, in order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def steady_text(notebook: Any) -> list[str]:
    """The text output of all cells except those tagged as timings."""
    steady = [cell for cell in notebook.cells if "timings" not in cell.metadata.get("tags", [])]
    shown = [output for cell in steady for output in cell.get("outputs", [])]
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in shown]


def pictures(notebook: Any) -> list[bytes]:
    """The pictures in a notebook's outputs, as PNG files."""
    shown = [output.get("data", {}) for output in outputs(notebook)]
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def main() -> None:
    """Run notebooks by name, or all of them, and write their outputs into the files."""
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks", description="Run notebooks, keep their outputs.")
    parser.add_argument("names", nargs="*", help="what their names begin with; all without one")
    options = parser.parse_args()
    chosen = [path for path in PATHS if not options.names or path.name.startswith(tuple(options.names))]
    for path in track(chosen, "running"):
        ran = run(read(path))
        nbformat.write(ran, path)  # type: ignore[no-untyped-call]
        if path.stem in PICTURES:
            (FOLDER / PICTURES[path.stem]).write_bytes(pictures(ran)[0])


if __name__ == "__main__":
    main()
