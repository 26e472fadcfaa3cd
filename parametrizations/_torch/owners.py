"""The lists that one parametrization is part of: as long as one is alive and contains it, it belongs to a tensor."""

from __future__ import annotations

import weakref
from typing import Any, Self

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch.chains import steps

__all__ = ["Owners", "others_with", "set_owner"]


class Owners:
    """Remembers lists without keeping them alive; a copy remembers those that are copied along with it."""

    def __init__(self, lists: list[ParametrizationList] | None = None) -> None:
        self._lists = [weakref.ref(owner) for owner in lists or []]

    def add(self, owner: ParametrizationList) -> None:
        """Remember a list that a parametrization is, or is about to be, part of."""
        if all(known is not owner for known in self._alive()):
            self._lists = [weakref.ref(one) for one in (*self._alive(), owner)]

    def hold(self, step: nn.Module) -> bool:
        """Whether the parametrization is part of a list that is still there."""
        return bool(self.lists(step))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)([memo[id(owner)] for owner in self._alive() if id(owner) in memo])

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

    def lists(self, step: nn.Module) -> list[ParametrizationList]:
        """The lists that are still there and that the parametrization is part of."""
        return [owner for owner in self._alive() if any(part is step for part in owner.children())]

    def _alive(self) -> list[ParametrizationList]:
        return [owner for owner in (known() for known in self._lists) if owner is not None]


def others_with(chain: ParametrizationList) -> list[ParametrizationList]:
    """Other lists that share a parametrization with this one, as far as these know to which they belong.

    PyTorch's `transfer_parametrizations_and_params` makes them, and lets them share what is stored, too.
    """
    known = [(step, owners) for step in steps(chain) for owners in vars(step).values() if isinstance(owners, Owners)]
    found = {id(other): other for step, owners in known for other in owners.lists(step) if other is not chain}
    return list(found.values())


def set_owner(step: nn.Module, chain: ParametrizationList) -> None:
    """Tell a parametrization, and its parts, the list that they are about to be part of."""
    for part in step.modules():
        for owners in vars(part).values():
            if isinstance(owners, Owners):
                owners.add(chain)
