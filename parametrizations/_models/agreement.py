"""Whether the parametrizations of one tensor can hold together."""

from __future__ import annotations

import contextlib
import copy
import itertools
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from parametrizations._models.constrained import Slot
from parametrizations._models.inverses import Unreachable, allowed_error, inverted, require_round_trip
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.parametrization import Parametrization

__all__ = ["require_agreement"]

Passed = tuple[nn.Module, Tensor, Tensor]
"""A step, what it takes, and what it gives."""


def require_agreement(slot: Slot, weight: Tensor) -> None:
    """Refuse constraints that undo one another, or that together change a weight which each of them alone would keep.

    A single constraint of a class that is not from this library gets a warning if its map does not undo its inverse. A
    weight without values cannot be checked. If a third-party step rejects a value, or its inverse is inexact, the check
    is skipped. ``weight`` is the weight before registering.

    Raises:
        ValueError: If they cannot hold together.
    """
    own = [step for step in slot.steps if isinstance(step, Parametrization)]
    if len(own) < 2 or weight.is_meta:
        if len(own) == len(slot.steps) and not own[0]._is_own and not weight.is_meta:
            _warn_of_a_moved_member(own[0], slot, weight)
        return
    with torch.inference_mode(False), torch.no_grad():
        passed = _passed(slot.copied())
        fault = _outside(passed) or _moving([step for step, _, _ in passed], weight) or _empty(slot, weight)
    if fault is not None:
        masked = isinstance(slot.steps[0], MaskedSparse)
        kept = " A mask has to keep the entries that others change, such as the diagonal." if masked else ""
        raise ValueError(
            f"register needs parametrizations that hold together for {slot.name!r}. Got {slot.kinds}: the weight is "
            f"{fault}.{kept} Leave one of them out, or bake first to replace earlier ones."
        )


def _warn_of_a_moved_member(step: Parametrization, slot: Slot, weight: Tensor) -> None:
    with torch.inference_mode(False), torch.no_grad():
        member = step.project(weight)
        distance = _most(slot.materialised() - member)
    if distance > allowed_error(member):
        name = type(step).__name__
        text = (
            f"{name} moves the weight of {slot.name!r} by up to {distance:.3g}, from project(weight) to "
            "forward(invert(project(weight))). Define invert(member) as the inverse of forward."
        )
        warnings.warn(text, stacklevel=2)


def _passed(slot: Slot) -> list[Passed]:
    """The steps from the first constraint on, with input and output. Earlier steps may return any weight."""
    taken, passed = tuple(slot.stored.values()), []
    for step in slot.steps:
        given = step(*taken)
        passed.append((step, taken[0], given))
        taken = (given,)
    return list(itertools.dropwhile(lambda one: not isinstance(one[0], Parametrization), passed))


def _outside(passed: Sequence[Passed]) -> str | None:
    """The first set that does not contain the final weight. Later third-party steps are inverted before the check."""
    value, slack = passed[-1][2], 0.0
    for step, taken, given in reversed(passed):
        if isinstance(step, Parametrization):
            if not step.contains(value, slack):
                return f"outside the set of {type(step).__name__}, which needs {step.needs}"
            continue
        try:
            value, echo = _back(step, value), _back(step, given)
        except Unreachable:
            return None
        slack += _most(echo - taken)  # nothing where the inverse is exact, as a sign has to be
    return None


def _moving(parts: Sequence[nn.Module], weight: Tensor) -> str | None:
    """How far the parametrizations move a weight that is in every set, as text; None if only by rounding."""
    for candidate in (weight, torch.full_like(weight, -2)):  # small entries may hide a clash
        with contextlib.suppress(Unreachable):
            for member in _members(parts, candidate):
                moved = _moved(_own(parts), member)
                if moved is not None:
                    return f"{moved:.3g} away from a common member of their sets"
    return None


def _empty(slot: Slot, weight: Tensor) -> str | None:
    """Whether the sets have only the zero weight in common, as those of `Diagonal` and `ZeroDiagonal`."""
    own = [step for step in slot.steps if isinstance(step, Parametrization)]
    if len(own) < len(slot.steps) or not own[0].stored_shape.numel():  # an empty mask keeps nothing on purpose
        return None
    members = list(_members(own, torch.full_like(weight, -2)))
    return "0 in every entry, since their sets have no other in common" if members and not members[0].any() else None


def _members(parts: Sequence[nn.Module], value: Tensor) -> Iterator[Tensor]:
    """A common member of the sets near this weight, if the projections find one."""
    for step in reversed(parts):
        value = step.project(value) if isinstance(step, Parametrization) else _back(step, value)
    for step in parts:
        if not isinstance(step, Parametrization):
            value = _through(step, value)
        elif not step.contains(value):
            return
    yield value


def _moved(parts: Sequence[nn.Module], member: Tensor) -> float | None:
    """The largest error of inverting all steps and applying them again; None within rounding."""
    value = member
    for step in reversed(parts):
        value = step.invert(step.project(value)) if isinstance(step, Parametrization) else _inverse(step, value)
    rounded = torch.zeros_like(value.abs())
    for step in parts:
        given = _through(step, value)
        passed_on = (_through(step, value + rounded) - given).abs()
        value, rounded = given, passed_on + _rounding(step, given)
    moved = (value - member).abs()
    return None if bool((moved <= rounded).all()) else _most(moved)


def _rounding(step: nn.Module, given: Tensor) -> Tensor | float:
    return step.rounding(given) if isinstance(step, Parametrization) else allowed_error(given)


def _through(step: nn.Module, value: Tensor) -> Tensor:
    if isinstance(step, Parametrization):
        given: Tensor = step(value)
        return given
    try:
        return _finite(step, step(value))
    except (RuntimeError, ValueError) as error:
        raise Unreachable(step, f"does not take this value: {error}") from error


def _finite(step: nn.Module, value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise Unreachable(step, "returns NaN or infinity.")
    return value


def _inverse(step: nn.Module, value: Tensor) -> Tensor:
    """The inverse of a third-party step, checked by a round trip. A step without an inverse returns the value."""
    found: Tensor = inverted([step], value, project=True)
    require_round_trip(step, found, value)
    return found


def _back(step: nn.Module, value: Tensor) -> Tensor:
    """The inverse of a third-party step, computed on a copy, because it may write into its buffers."""
    return _finite(step, inverted([copy.deepcopy(step)], value, project=True))


def _own(parts: Sequence[nn.Module]) -> list[nn.Module]:
    return [step if isinstance(step, Parametrization) else copy.deepcopy(step) for step in parts]


def _most(difference: Tensor) -> float:
    return difference.abs().max().item() if difference.numel() else 0.0
