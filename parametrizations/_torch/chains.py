"""PyTorch's `ParametrizationList`, called a chain: the parametrizations of one tensor, and its stored tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch.graphs import spare_graphs
from parametrizations._torch.private import children, is_placeholder

__all__ = [
    "chain_of",
    "chains",
    "copied",
    "given",
    "originals",
    "steps",
]


def chain_of(module: nn.Module, name: str) -> ParametrizationList:
    """The chain of a tensor."""
    chain = module.get_submodule("parametrizations").get_submodule(name)
    assert isinstance(chain, ParametrizationList)
    return chain


def chains(module: nn.Module) -> dict[str, ParametrizationList]:
    """The chains of a module by tensor name."""
    held = children(module)  # not by attribute: a wrapper may forward attributes to the wrapped module
    holder = held["parametrizations"] if "parametrizations" in held else None  # noqa: SIM401 (no dict where scripted)
    if not isinstance(holder, nn.ModuleDict):
        return {}
    return {name: chain for name, chain in children(holder).items() if isinstance(chain, ParametrizationList)}


def steps(chain: ParametrizationList) -> list[nn.Module]:
    """The parametrizations in the order in which they are applied."""
    return [chain.get_submodule(str(place)) for place in range(len(chain))]


def originals(chain: ParametrizationList) -> dict[str, Tensor]:
    """The stored tensors by PyTorch's names: ``original``, or ``original0``, ``original1`` and so on."""
    names = ["original"] if chain.is_tensor else [f"original{place}" for place in range(chain.ntensors)]
    return {name: getattr(chain, name) for name in names}


def copied(chain: ParametrizationList) -> ParametrizationList:
    """A copy whose stored tensors share memory with the originals, but can be replaced independently."""
    stored = originals(chain).values()
    held: dict[int, object] = {id(tensor): nn.Parameter(tensor.data, requires_grad=False) for tensor in stored}
    for part in chain.modules():
        spare_graphs(held, vars(part).values())
    return copy.deepcopy(chain, held)


def given(chain: ParametrizationList, state_dict: Mapping[str, object], prefix: str) -> dict[str, Any]:
    """What a checkpoint that is about to be loaded really has for a chain.

    `set_model_state_dict` fills up what it lacks: with the model's own tensors, and placeholders for extra state.

    Args:
        chain: The parametrizations.
        state_dict: What `load_state_dict` was given.
        prefix: What the chain's entries begin with.
    """
    own = {id(tensor) for tensor in (*chain.parameters(), *chain.buffers())}
    there = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    return {key: value for key, value in there.items() if id(value) not in own and not is_placeholder(value)}
