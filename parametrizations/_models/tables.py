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
    """The lines as an HTML table, the first of them as its head."""
    head, *rows = lines
    cells = [_html(head, "th"), *(_html(row, "td") for row in rows)]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _html(line: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
