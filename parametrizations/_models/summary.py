"""`summary`: what is constrained in a model, whether it holds, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from parametrizations._models.constrained import Slot, constrained
from parametrizations._models.fuse import explain
from parametrizations._models.layer import entries_of
from parametrizations._models.tables import as_html, as_text
from parametrizations.parametrization import Parametrization

__all__ = ["Row", "Summary", "summary"]


class Row(NamedTuple):
    """One constrained tensor, with the columns that `summary` explains; ``holds`` is None where it cannot be told."""

    name: str
    constraint: str
    shape: tuple[int, ...]
    stored: int
    dense: int
    holds: bool | None
    product: str


@dataclass(frozen=True)
class Summary:
    """Rows that print as a table, in a terminal and in a notebook."""

    rows: tuple[Row, ...]

    @override
    def __str__(self) -> str:
        return as_text(self._lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self._lines())

    def _lines(self) -> list[tuple[str, ...]]:
        return [Row._fields, *(_cells(row) for row in self.rows)]


def summary(model: nn.Module) -> Summary:
    """A table of every parametrized tensor, whoever registered it.

    ==============  ====================================================================================================
    column          says
    ==============  ====================================================================================================
    ``name``        the name that the tensor has in the plain model
    ``constraint``  what is attached, in the order in which it is applied; ``(foreign)`` if not of this library's kind
    ``shape``       the shape of the weight, ``(out, in)``
    ``stored``      how many numbers are stored and trained
    ``dense``       how many numbers the weight has
    ``holds``       whether the weight is in its set now: ``yes``, ``NO`` (such as NaN in it), or ``unknown``
    ``product``     how the layer multiplies, by the names of `explain`; ``dense`` for what is no weight of a layer
    ==============  ====================================================================================================

    A compactly stored weight with one parametrization, or a second one that acts on the stored entries alone, is not
    built, to save memory: its constraints hold whenever these entries are finite. Where a foreign parametrization comes
    last, it cannot be told.

    Args:
        model: Left as it is.

    Raises:
        TypeError: If it is no model.

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
    if not isinstance(model, nn.Module):
        raise TypeError(f"summary needs a model. Got {type(model).__name__}. Pass a torch.nn.Module.")
    return Summary(tuple(map(_row, constrained(model))))


def _row(slot: Slot) -> Row:
    return Row(
        slot.name,
        ", then ".join(_kind(step) for step in slot.steps),
        tuple(slot.shape),
        sum(tensor.numel() for tensor in slot.stored.values()),
        slot.shape.numel(),
        _holds(slot),
        explain(slot.module).product if slot.tensor_name == "weight" else "dense",
    )


def _kind(step: nn.Module) -> str:
    return type(step).__name__ + ("" if isinstance(step, Parametrization) else " (foreign)")


def _holds(slot: Slot) -> bool | None:
    if not slot.binding or any(tensor.is_meta for tensor in slot.stored.values()):
        return None
    entries = _entries_that_tell(slot)
    if entries is not None:
        return bool(entries.isfinite().all())
    weight = slot.materialised()
    return all(step.contains(weight) for step in slot.binding)


def _entries_that_tell(slot: Slot) -> Tensor | None:
    """Entries for which the constraints hold if they are finite; None if the whole weight is needed."""
    first, *others = slot.steps
    if not slot.is_compact or (others and not (isinstance(first, Parametrization) and first.selects)):
        return None
    with torch.no_grad():
        return entries_of(slot.chain) if len(others) < 2 else None


def _cells(row: Row) -> tuple[str, ...]:
    holds = {True: "yes", False: "NO", None: "unknown"}[row.holds]
    return tuple(holds if field == "holds" else str(value) for field, value in zip(Row._fields, row, strict=True))
