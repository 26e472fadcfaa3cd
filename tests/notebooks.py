"""The notebooks: ``python -m tests.notebooks [NAME ...]`` runs them and keeps what they show."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from rich.progress import track

__all__ = ["FOLDER", "PATHS", "run"]

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))


def run(notebook: Any) -> Any:
    """Run the cells of a notebook in a fresh kernel, in the notebooks' folder.

    Returns:
        The same notebook, with what its cells show.

    Raises:
        nbclient.exceptions.CellExecutionError: At the first cell that fails and is not tagged ``raises-exception``.
    """
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": FOLDER}}, record_timing=False)
    return client.execute()


def main() -> None:
    """Run notebooks by name, or all of them, and write their outputs into the files."""
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks", description="Run notebooks, keep their outputs.")
    parser.add_argument("names", nargs="*", help="what their names begin with; all without one")
    options = parser.parse_args()
    chosen = [path for path in PATHS if not options.names or path.name.startswith(tuple(options.names))]
    for path in track(chosen, "running"):
        nbformat.write(run(nbformat.read(path, as_version=4)), path)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
