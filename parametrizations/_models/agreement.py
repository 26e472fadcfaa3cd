"""Whether the parametrizations of one tensor can hold together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._models.weights import binding
from parametrizations._torch.chains import build, steps
from parametrizations.parametrization import Parametrization

__all__ = ["require_agreement"]


def require_agreement(name: str, chain: ParametrizationList, weight: Tensor) -> None:
    """Refuse parametrizations that undo one another, or that move a weight which each of them would keep.

    A single one has its own laws, so nothing is built for it. Weights without values cannot be looked at.

    Args:
        name: The tensor's, for the error.
        chain: The parametrizations, attached.
        weight: What they were shown.

    Raises:
        ValueError: If they cannot hold together.
    """
    known = binding(chain)
    if len(known) < 2 or weight.is_meta:
        return
    built = build(chain)
    for step in known:
        if not step.contains(built):
            raise _clash(name, chain, f"outside the set of {type(step).__name__}, which needs {step.needs}")
    for member in _members(known, weight):
        moved = _moved(known, member)
        if moved is not None:
            raise _clash(name, chain, f"{moved:.3g} away from one that is in the set of each")


def _clash(name: str, chain: ParametrizationList, fault: str) -> ValueError:
    kinds = ", then ".join(type(step).__name__ for step in steps(chain))
    return ValueError(
        f"register needs parametrizations that hold together for {name!r}. Got {kinds}, whose weight is {fault}. "
        "Leave one of them out; bake first to replace what is attached."
    )


def _members(known: Sequence[Parametrization], weight: Tensor) -> Iterator[Tensor]:
    """Weights in the set of each: near the one that is there, and a plain one, since small entries may hide a clash."""
    for candidate in (weight, torch.full_like(weight, -2)):
        for step in reversed(known):
            candidate = step.project(candidate)
        if all(step.contains(candidate) for step in known):
            yield candidate


@torch.no_grad()
def _moved(known: Sequence[Parametrization], member: Tensor) -> float | None:
    """How far the inverses and the maps together move a member, if that is more than they round."""
    value = member
    for step in reversed(known):
        value = step.invert(step.project(value))
    rounded: Tensor | None = None
    for step in known:
        given = step(value)
        passed_on = 0 if rounded is None else (step(value + rounded) - given).abs()
        value, rounded = given, step.rounding(given) + passed_on
    assert rounded is not None
    moved = (value - member).abs()
    return None if bool((moved <= rounded).all()) else moved.max().item()
