"""`summary`: the constraints of a model, whether they hold, and their memory.

`Table` is the base class of `Summary` and of `Tuning`, the result of `tune`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from typing_extensions import override

from parametrizations._models.constrained import Slot, entries_of
from parametrizations._models.fuse import explain
from parametrizations._models.layer import fused_holders
from parametrizations._models.matching import constrained_by
from parametrizations._products.dense import fits
from parametrizations.parametrization import Parametrization


class Table:
    """Rows, printed as a table in terminals and notebooks."""

    head: ClassVar[tuple[str, ...]]
    empty: ClassVar[str]
    """The text that is printed instead of the table if there are no rows."""
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


class Row(NamedTuple):
    """A row of `summary`, with its columns as fields; ``holds``, whether the constraint holds, is None if unknown."""

    name: str
    constraint: str
    shape: tuple[int, ...]
    stored: int
    dense: int
    holds: bool | None
    product: str


@dataclass(frozen=True, repr=False)
class Summary(Table):
    """The ``rows`` of `summary`, printed as a table in terminals and notebooks."""

    head = Row._fields
    empty = "No parametrized tensors. Constrain some: register(model, {name: constraint})."
    rows: tuple[Row, ...]


def summary(model: nn.Module) -> Summary:
    """A table with one row for each parametrized tensor of a model.

    ==============  ====================================================================================================
    column          meaning
    ==============  ====================================================================================================
    ``name``        the name of the tensor in the plain model
    ``constraint``  its parametrizations, in the order of application; ``(foreign)`` marks third-party ones
    ``shape``       the shape of the weight, ``(out, in)``
    ``stored``      the number of stored entries, the free parameters
    ``dense``       the number of entries of the weight
    ``holds``       whether the weight is in its set now: ``yes``, ``NO`` (for example after NaN), or ``unknown``
    ``product``     the product of the layer, as in `explain`; ``dense`` for biases and unfused layers
    ==============  ====================================================================================================

    To save memory, a weight is not materialised if its only constraint is a `Diagonal` or a `MaskedSparse`, or if one
    more constraint follows and acts on the stored entries. In these cases ``holds`` means finite entries. If the last
    parametrization is third-party, ``holds`` is unknown.

    Args:
        model: Not changed.

    Returns:
        A `Summary` with ``rows``, printed as a table in terminals and notebooks.

    Raises:
        TypeError: If ``model`` is not a module.

    Example:
        >>> from parametrizations import Diagonal, ZeroDiagonal, register
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        >>> summary(register(model, {"0.weight": Diagonal(), "1.weight": ZeroDiagonal()}))
        name      constraint    shape   stored  dense  holds  product
        0.weight  Diagonal      (4, 4)  4       16     yes    elementwise
        1.weight  ZeroDiagonal  (4, 4)  16      16     yes    dense
        >>> summary(model).rows[0].stored
        4
    """
    return Summary(tuple(map(_row, constrained_by("summary", model))))


def _row(slot: Slot) -> Row:
    kinds = [type(step).__name__ + ("" if isinstance(step, Parametrization) else " (foreign)") for step in slot.steps]
    stored = sum(tensor.numel() for tensor in slot.stored.values())
    fused = fused_holders(slot)
    product = explain(fused[0]).product if fused else "dense"
    return Row(slot.name, ", then ".join(kinds), tuple(slot.shape), stored, slot.shape.numel(), _holds(slot), product)


def _holds(slot: Slot) -> bool | None:
    if not slot.binding or any(tensor.is_meta for tensor in slot.stored.values()):
        return None
    first, *others = slot.steps
    selects = isinstance(first, Parametrization) and first.selects
    if slot.is_compact and (not others or (selects and len(others) == 1)):
        # The set of the first parametrization allows any finite stored entries. The result of the second is always in
        # the set of the second. So only finite entries are left to check.
        with torch.no_grad():
            entries = entries_of(slot.chain)
        if entries is not None:
            return bool(entries.isfinite().all())
    if slot.is_compact and not fits(slot.shape.numel(), slot.first_stored):
        return None
    weight = slot.materialised()
    return all(step.contains(weight) for step in slot.binding)
