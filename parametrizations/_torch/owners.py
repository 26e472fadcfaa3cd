"""The lists that contain a parametrization. It belongs to a tensor while one of them is alive and contains it."""

from __future__ import annotations

import gc
from typing import Any, Self
from weakref import WeakSet

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from typing_extensions import override

from parametrizations._torch.chains import steps

__all__ = ["Owners", "is_attached", "others_with", "set_owner"]


class Owners(WeakSet[ParametrizationList]):
    """A set of lists with weak references. A deep copy contains only lists copied along with it."""

    def lists(self, step: nn.Module) -> list[ParametrizationList]:
        """The lists in the set that still contain the parametrization."""
        return [owner for owner in self if any(part is step for part in owner.children())]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(memo[id(owner)] for owner in self if id(owner) in memo)

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


def others_with(chain: ParametrizationList) -> list[ParametrizationList]:
    """Other lists that share a parametrization with this one, if the parametrization has `Owners`.

    PyTorch's `transfer_parametrizations_and_params` creates such lists. They share the stored tensors, too.
    """
    found = [(step, owners) for step in steps(chain) for owners in _owners_of(step)]
    return list({other for step, owners in found for other in owners.lists(step)} - {chain})


def set_owner(step: nn.Module, chain: ParametrizationList) -> None:
    """Add a list, before it contains the parametrization, to the owners of the parametrization and of its parts."""
    for part in step.modules():
        for owners in _owners_of(part):
            owners.add(chain)


def is_attached(step: nn.Module) -> bool:
    """Whether any list of this process contains a third-party parametrization, which has no `Owners`."""
    stores = [one for one in gc.get_referrers(step) if isinstance(one, dict)]
    holders = gc.get_referrers(*stores) if stores else []
    lists = [one for one in holders if isinstance(one, ParametrizationList)]
    attributes = [one for one in holders if isinstance(one, dict) and "is_tensor" in one and "unsafe" in one]
    held = [part for one in (*map(vars, lists), *attributes) for part in one["_modules"].values()]
    return any(part is step for part in held)


def _owners_of(part: nn.Module) -> list[Owners]:
    return [value for value in vars(part).values() if isinstance(value, Owners)]
