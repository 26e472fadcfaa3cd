"""The state of third-party parametrizations, which their inverses may change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from parametrizations._models.changes import Changes
from parametrizations._models.constrained import Slot
from parametrizations._torch.private import buffers, children, parameters
from parametrizations.parametrization import Parametrization

STORES = ("_parameters", "_buffers", "_modules")
"""Attributes to skip in ``vars(module)``, since `_stores` also returns each of these dictionaries separately."""


class StepState:
    """A snapshot of third-party steps and their copies, taken before the inverses of the copies run.

    `collect` compares the copies with the snapshot afterwards.
    """

    def __init__(self, steps: Sequence[nn.Module], copies: Sequence[nn.Module]) -> None:
        self._before = [
            (own, other, dict(other), {name: _mark(value) for name, value in other.items()})
            for step, copied in zip(steps, copies, strict=True)
            if not isinstance(step, Parametrization)
            for part, twin in zip(step.modules(), copied.modules(), strict=True)
            for own, other in _stores(part, twin)
        ]

    def collect(self, changes: Changes) -> None:
        """Collect, for the original steps, every change that the inverses have made in the copies."""
        for own, other, old, marks in self._before:
            for name, value in other.items():
                if name in STORES:
                    continue
                if value is not old.get(name):
                    changes.draft(own)[name] = value
                elif isinstance(value, Tensor):
                    if not value.is_meta and not torch.equal(value, own[name]):
                        changes.data(own[name], value.data, own[name].grad)
                elif isinstance(value, list | dict) and _mark(value) != marks[name]:
                    draft: Any = changes.draft(own[name])
                    draft.clear()
                    draft.extend(value) if isinstance(value, list) else draft.update(value)


def inverted_beside(changes: Changes, slot: Slot, weight: Tensor, *, project: bool) -> dict[str, Tensor]:
    """Like `Slot.inverted`, but with copies of the steps: their state changes are collected in ``changes``, not made.

    ``project`` is as in `inverses.inverted`: true projects onto each set, false follows ``on_infeasible``.
    """
    if all(isinstance(step, Parametrization) for step in slot.steps):
        return slot.inverted(weight, project=project)
    twin = slot.copied()
    state = StepState(slot.steps, twin.steps)
    stored = twin.inverted(weight, project=project)
    state.collect(changes)
    return stored


def _stores(part: nn.Module, twin: nn.Module) -> list[tuple[Any, Any]]:
    """Pairs of corresponding dictionaries of a module and its copy: ``vars``, parameters, buffers, children."""
    return [(vars(part), vars(twin))] + [(held(part), held(twin)) for held in (parameters, buffers, children)]


def _mark(value: object) -> object:
    """The ``id`` of every item of a list or dictionary, to notice a change in place; None for other objects."""
    if isinstance(value, list):
        return [id(one) for one in value]
    return [(key, id(one)) for key, one in value.items()] if isinstance(value, dict) else None
