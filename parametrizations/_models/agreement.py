"""Whether the parametrizations of one tensor can hold together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from parametrizations._models.constrained import Slot
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.parametrization import Parametrization


def require_agreement(slot: Slot, weight: Tensor) -> None:
    """Refuse constraints that undo one another, or that change a weight in the set of each of them.

    A single constraint is not checked, because the laws cover it. A weight without values cannot be checked. A
    constraint before a third-party step holds for the input of that step, not for the weight, so it is not checked.
    ``weight`` is the one before registering.
    """
    if len(slot.binding) < 2 or weight.is_meta:
        return
    parts = slot.copied().binding
    with torch.inference_mode(False), torch.no_grad():
        fault = _outside(parts, slot.materialised()) or _moving(parts, weight)
        if len(parts) == len(slot.steps):
            fault = fault or _empty(parts, weight)
    if fault is not None:
        masked = isinstance(slot.steps[0], MaskedSparse)
        kept = " A mask has to keep the entries that others change, such as the diagonal." if masked else ""
        raise ValueError(
            f"register needs parametrizations that hold together for {slot.name!r}. Got {slot.kinds}: the weight is "
            f"{fault}.{kept} Leave one of them out, or bake first to replace earlier ones."
        )


def _outside(parts: Sequence[Parametrization], weight: Tensor) -> str | None:
    """The last set that does not contain the constrained weight."""
    for step in reversed(parts):
        if not step.contains(weight):
            return f"outside the set of {type(step).__name__}, which needs {step.needs}"
    return None


def _moving(parts: Sequence[Parametrization], weight: Tensor) -> str | None:
    """The distance between a common member of the sets and its image; None within rounding."""
    for candidate in (weight, torch.full_like(weight, -2)):  # small entries may hide a clash
        member = _common_member(parts, candidate)
        moved = None if member is None else _moved(parts, member)
        if moved is not None:
            return f"{moved:.3g} away from a common member of their sets"
    return None


def _empty(parts: Sequence[Parametrization], weight: Tensor) -> str | None:
    """Whether the sets have only the zero weight in common, as those of `Diagonal` and `ZeroDiagonal`."""
    if not parts[0].stored_shape.numel():  # an empty mask keeps nothing on purpose
        return None
    member = _common_member(parts, torch.full_like(weight, -2))
    return None if member is None or member.any() else "0 in every entry, since their sets have no other in common"


def _common_member(parts: Sequence[Parametrization], value: Tensor) -> Tensor | None:
    """A common member of the sets near this weight, if the projections find one."""
    for step in reversed(parts):
        value = step.project(value)
    return value if all(step.contains(value) for step in parts) else None


def _moved(parts: Sequence[Parametrization], member: Tensor) -> float | None:
    """The largest error of inverting all steps and applying them again; None within rounding."""
    value = member
    for step in reversed(parts):
        value = step.invert(step.project(value))
    rounded = torch.zeros_like(value.abs())
    for step in parts:
        given = step(value)
        passed_on = (step(value + rounded) - given).abs()
        value, rounded = given, passed_on + step.rounding(given)
    moved = (value - member).abs()
    return None if bool((moved <= rounded).all()) else moved.max().item()
