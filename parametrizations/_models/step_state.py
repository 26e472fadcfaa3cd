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

__all__ = ["StepState", "inverted_beside"]

STORES = ("_parameters", "_buffers", "_modules")


class StepState:
    """The state of copied parametrizations before their inverses run."""

    def __init__(self, steps: Sequence[nn.Module], copies: Sequence[nn.Module]) -> None:
        pairs = [
            pair
            for step, other in zip(steps, copies, strict=True)
            if not isinstance(step, Parametrization)
            for pair in zip(step.modules(), other.modules(), strict=True)
        ]
        self._before = [(own, other, dict(other), _marks(other)) for pair in pairs for own, other in _stores(*pair)]
        self._parts = {id(vars(part)): part for part, _ in pairs}

    def collect(self, changes: Changes) -> None:
        """Collect for the model what the inverses have changed in the copies."""
        for own, other, old, marks in self._before:
            for name, value in other.items():
                if id(own) in self._parts and name in STORES:
                    continue
                if value is not old.get(name):
                    self._replace(changes, own, name, value)
                elif isinstance(value, Tensor):
                    if not value.is_meta and not torch.equal(value, own[name]):
                        changes.data(own[name], value.data, own[name].grad)
                elif isinstance(value, list | dict) and _mark(value) != marks[name]:
                    draft: Any = changes.draft(own[name])
                    draft.clear()
                    draft.extend(value) if isinstance(value, list) else draft.update(value)

    def _replace(self, changes: Changes, own: dict[str, Any], name: str, value: object) -> None:
        if id(own) in self._parts:
            changes.attribute(self._parts[id(own)], name, value)
        else:
            changes.draft(own)[name] = value


def inverted_beside(changes: Changes, slot: Slot, weight: Tensor, *, project: bool) -> dict[str, Tensor]:
    """`Slot.inverted`, which leaves the parametrizations unchanged and collects the changes of their state."""
    if all(isinstance(step, Parametrization) for step in slot.steps):
        return slot.inverted(weight, project=project)
    twin = slot.copied()
    state = StepState(slot.steps, twin.steps)
    stored = twin.inverted(weight, project=project)
    state.collect(changes)
    return stored


def _stores(part: nn.Module, twin: nn.Module) -> list[tuple[Any, Any]]:
    """The dictionaries of a module and of its copy."""
    return [(vars(part), vars(twin))] + [(held(part), held(twin)) for held in (parameters, buffers, children)]


def _marks(store: dict[str, Any]) -> dict[str, object]:
    return {name: _mark(value) for name, value in store.items()}


def _mark(value: object) -> object:
    """A value that differs after a list or dictionary was changed in place."""
    if isinstance(value, list):
        return [id(one) for one in value]
    return [(key, id(one)) for key, one in value.items()] if isinstance(value, dict) else None
