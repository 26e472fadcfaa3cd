"""PyTorch's `ParametrizationList`, here called a chain: the parametrizations of one tensor and its stored tensors.

A parametrization belongs to a tensor while a chain in its `Owners` is alive and contains the parametrization.
"""

from __future__ import annotations

import copy
import gc
import operator
from collections.abc import Iterable, Mapping
from typing import Any, Self
from weakref import WeakSet

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from typing_extensions import override

from parametrizations._torch.private import children, is_placeholder, parameters

TIES = "chains_of_all_owners"
"""Attribute of each chain of a tied tensor: the list of all chains of the tensor."""


def chains(module: nn.Module) -> dict[str, ParametrizationList]:
    """The chains of a module by tensor name."""
    held = children(module)  # not by attribute: a wrapper may forward attributes to the wrapped module
    holder = held["parametrizations"] if "parametrizations" in held else None  # noqa: SIM401 (scripts lack get)
    if not isinstance(holder, nn.ModuleDict):
        return {}
    return {name: chain for name, chain in children(holder).items() if isinstance(chain, ParametrizationList)}


def steps(chain: ParametrizationList) -> list[nn.Module]:
    """The parametrizations in the order of application."""
    return [chain.get_submodule(str(place)) for place in range(len(chain))]


def tie(chain: ParametrizationList, count: int) -> list[ParametrizationList]:
    """The chain, and ``count - 1`` copies with the same stored tensors and steps: one for each owner of a tied tensor.

    With one chain for all owners, `torch.func.functional_call` would swap a stored tensor once under each name, and
    then not restore the model.
    """
    every = [chain, *(copy.copy(chain) for _ in range(count - 1))]
    for one in every if count > 1 else ():
        vars(one).update({"_parameters": dict(parameters(chain)), TIES: every})
    return every


def ties(chain: ParametrizationList) -> list[ParametrizationList]:
    """The chains of all owners of a tied tensor, in the same order for each owner; the chain alone if it is untied."""
    own = list(originals(chain).values())
    every: Iterable[ParametrizationList] = getattr(chain, TIES, ())
    return [one for one in every if all(map(operator.is_, originals(one).values(), own))] or [chain]


def retie(chain: nn.Module, *_: object) -> None:
    """Give all chains of a tied tensor the stored tensors of ``chain``, which may be new. Also a hook after loading."""
    for other in getattr(chain, TIES, ()):
        parameters(other).update(parameters(chain))


def originals(chain: ParametrizationList) -> dict[str, Tensor]:
    """The stored tensors by PyTorch's names: ``original``, or ``original0``, ``original1`` and so on."""
    names = ["original"] if chain.is_tensor else [f"original{place}" for place in range(chain.ntensors)]
    return {name: getattr(chain, name) for name in names}


def copied(chain: ParametrizationList) -> ParametrizationList:
    """A copy of a chain. Its stored tensors share memory with the originals, but can be replaced independently."""
    stored = originals(chain).values()
    memo: dict[int, object] = {id(tensor): nn.Parameter(tensor.data, requires_grad=False) for tensor in stored}
    for part in chain.modules():
        spare_graphs(memo, vars(part).values())
    return copy.deepcopy(chain, memo)


def given(chain: ParametrizationList, state_dict: Mapping[str, object], prefix: str) -> dict[str, Any]:
    """The entries of a checkpoint for a chain, by key. Their keys start with ``prefix``.

    `set_model_state_dict` replaces missing entries by the model's own tensors, and missing extra state by placeholders.
    The result leaves out both.
    """
    own = {id(tensor) for tensor in (*chain.parameters(), *chain.buffers())}
    found = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    return {key: value for key, value in found.items() if id(value) not in own and not is_placeholder(value)}


def spare_graphs(memo: dict[int, Any], attributes: Iterable[object]) -> None:
    """Put detached copies of the computed tensors among a module's attributes into ``memo``, for `copy.deepcopy`.

    Recurrent layers keep a list of their computed weights, and pruned layers keep the pruned weight. Both compute them
    again at the next forward pass.
    """
    for value in attributes:
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor) and not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
                memo.setdefault(id(memo), []).append(tensor)  # kept alive, as deepcopy does, so its id is not reused


class Owners(WeakSet[ParametrizationList]):
    """A set of weak references to chains. A deep copy contains only chains copied in the same call."""

    def lists(self, step: nn.Module) -> list[ParametrizationList]:
        """The chains in this `Owners` that still contain the parametrization."""
        return [owner for owner in self if any(part is step for part in owner.children())]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(memo[id(owner)] for owner in self if id(owner) in memo)

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


def others_with(chain: ParametrizationList) -> list[ParametrizationList]:
    """Other chains that share a parametrization with this chain, if the parametrization has `Owners`.

    PyTorch's `transfer_parametrizations_and_params` creates such chains. They share the stored tensors, too.
    """
    found = [(step, owners) for step in steps(chain) for owners in _owners_of(step)]
    return list({other for step, owners in found for other in owners.lists(step)} - {chain})


def set_owner(step: nn.Module, chain: ParametrizationList) -> None:
    """Add a chain, even before it contains the step, to the `Owners` of the step and of the step's submodules."""
    for part in step.modules():
        for owners in _owners_of(part):
            owners.add(chain)


def is_attached(step: nn.Module) -> bool:
    """Whether any chain of this process contains the third-party ``step``, which has no set of its chains, `Owners`."""
    stores = [one for one in gc.get_referrers(step) if isinstance(one, dict)]
    holders = gc.get_referrers(*stores) if stores else []
    lists = [one for one in holders if isinstance(one, ParametrizationList)]
    attributes = [one for one in holders if isinstance(one, dict) and "is_tensor" in one and "unsafe" in one]
    held = [part for one in (*map(vars, lists), *attributes) for part in one["_modules"].values()]
    return any(part is step for part in held)


def _owners_of(part: nn.Module) -> list[Owners]:
    return [value for value in vars(part).values() if isinstance(value, Owners)]
