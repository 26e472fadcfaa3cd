"""Rows of words as a table, in a terminal and in a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["as_html", "as_text"]


def as_text(lines: Iterable[Sequence[str]]) -> str:
    """The lines with their columns below each other."""
    cells = list(lines)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def as_html(lines: Iterable[Sequence[str]]) -> str:
    """The lines as an HTML table."""
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
