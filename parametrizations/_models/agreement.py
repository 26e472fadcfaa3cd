"""Whether the parametrizations of one tensor can hold together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parametrizations._models.constrained import Slot
from parametrizations._models.inverses import allowed_error
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.parametrization import Parametrization
from parametrizations.signed import Signed


def require_agreement(slot: Slot, weight: Tensor) -> None:
    """Refuse constraints that undo one another, or that together change a weight which each of them alone would keep.

    A single constraint of this library is not checked, because tests cover it; one of a user's class gets a warning if
    it breaks a promise of `Parametrization`. A weight on the meta device cannot be checked. A constraint before a
    third-party step holds for the input of that step, not for the weight, so it is not checked. ``weight`` is the
    weight before the change.
    """
    if len(slot.binding) < 2 or weight.is_meta:
        fault = None if len(slot.steps) > 1 or weight.is_meta else _fault(slot, weight)
        if fault is not None:
            warnings.warn(f"{fault} check_parametrization lists every fault.", stacklevel=2)
        return
    parts = slot.copied().binding
    with torch.inference_mode(False), torch.no_grad():
        fault = _outside(parts, slot.materialised()) or _moving(parts, weight)
        if len(parts) == len(slot.steps):
            fault = fault or _empty(parts, weight)
    if fault is not None:
        kept = ""
        if isinstance(slot.steps[0], MaskedSparse):
            kept = " A mask has to keep the entries that other constraints change, such as the diagonal."
        if any(isinstance(step, Signed) for step in slot.steps[:-1]):
            kept = " Signed comes last, after the constraints that set entries to zero."
        raise ValueError(
            f"The parametrizations of {slot.name!r} need to hold together. Got {slot.kinds}: the weight is "
            f"{fault}.{kept} Leave one of them out, or bake first, which removes earlier ones."
        )


def _fault(slot: Slot, weight: Tensor) -> str | None:
    """The promise of `Parametrization` that a user's single constraint breaks on this weight, as text, or None."""
    own = slot.steps[0]
    if not isinstance(own, Parametrization) or own._is_own or not weight.numel():
        return None
    step: Any = slot.copied().steps[0]
    name, x = type(step).__name__, slot.first_stored.detach().clone()
    with torch.inference_mode(False), torch.no_grad():
        member = step.project(weight)
        found = (_most(step, member), (step(x) - member).abs().max().item(), _most(step, step(_other(x))))
    outside, moved, others = (value if value > allowed_error(member) else 0 for value in found)
    if outside:
        return f"{name} needs project(weight) in its set. Got {outside:.3g} outside. Fix project or the sign of excess."
    if moved:
        which = f"an error of {moved:.3g}, which moves {slot.name!r}"
        return f"{name} needs forward(invert(member)) to be the member. Got {which}. Define invert(member)."
    with torch.inference_mode(False), torch.enable_grad():
        if not step(x.requires_grad_()).requires_grad:
            got = "no gradient, so it would not train. Avoid detach, data and NumPy in forward"
            return f"{name} needs forward(x) to depend on x for {slot.name!r}. Got {got}."
    if others:
        return f"{name} needs forward(x) in its set for every x. Got {others:.3g} outside. Use project(x) in forward."
    return None


def _most(step: Parametrization, weight: Tensor) -> float:
    return step._checked_excess(weight).max().item()


def _other(x: Tensor) -> Tensor:
    """A stored tensor like ``x``, with other entries, of both signs."""
    waves = torch.arange(x.numel(), device=x.device).view(x.shape).sin()
    return x + (x.abs().max() + 1) * waves.to(x) if x.numel() else x


def _outside(parts: Sequence[Parametrization], weight: Tensor) -> str | None:
    """As text, the last constraint that the materialised weight breaks; None if the weight is in every set."""
    for step in reversed(parts):
        if not step.contains(weight):
            return f"outside the set of {type(step).__name__}, which needs {step.needs}"
    return None


def _moving(parts: Sequence[Parametrization], weight: Tensor) -> str | None:
    """How far the parametrizations move a weight that is in every set, as text; None if only by rounding."""
    for candidate in (weight, torch.full_like(weight, -2)):  # small entries may hide a clash
        member = _common_member(parts, candidate)
        moved = None if member is None else _moved(parts, member)
        if moved is not None:
            return f"{moved:.3g} away from a common member of their sets"
    return None


def _empty(parts: Sequence[Parametrization], weight: Tensor) -> str | None:
    """A text if the sets have only the zero weight in common, as for `Diagonal` and `ZeroDiagonal`; otherwise None."""
    if not parts[0].stored_shape.numel():  # an empty mask keeps nothing on purpose
        return None
    member = _common_member(parts, torch.full_like(weight, -2))
    return None if member is None or member.any() else "0 in every entry, as their sets have no other weight in common"


def _common_member(parts: Sequence[Parametrization], value: Tensor) -> Tensor | None:
    """A common member of all sets near ``value``, by one projection onto each set in turn; None if this finds none."""
    for step in reversed(parts):
        value = step.project(value)
    return value if all(step.contains(value) for step in parts) else None


def _moved(parts: Sequence[Parametrization], member: Tensor) -> float | None:
    """The largest change of an entry of ``member`` by inverting and reapplying all steps; None if only by rounding."""
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
