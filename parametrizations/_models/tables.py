"""`Table`: the base class of results that print as a table."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from typing_extensions import override

__all__ = ["Table"]


class Table:
    """Rows, printed as a table in terminals and notebooks."""

    head: ClassVar[tuple[str, ...]]
    empty: ClassVar[str]
    """The text without rows."""
    rows: tuple[tuple[Any, ...], ...]

    @override
    def __repr__(self) -> str:
        if not self.rows:
            return self.empty
        lines = [self.head, *(tuple(map(_text, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """The rows."""
        return iter(self.rows)

    def _repr_html_(self) -> str:
        if not self.rows:
            return html.escape(self.empty)
        head = "".join(f"<th>{name}</th>" for name in self.head)
        rows = ["".join(f"<td>{html.escape(_text(value))}</td>" for value in row) for row in self.rows]
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in (head, *rows))}</table>"


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number:.3g}" for name, number in value.items()) or "not timed"
    return {True: "yes", False: "NO", None: "unknown"}[value] if isinstance(value, bool | None) else str(value)
