"""What PyTorch calls a `ParametrizationList`: the parametrizations of one tensor, and what they store."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch import children
from parametrizations.graphs import spare_graphs
from parametrizations.parameters import give
from parametrizations.parametrization import Parametrization

__all__ = [
    "build",
    "chain_of",
    "chains",
    "copied",
    "dense_shape",
    "is_compact",
    "originals",
    "settle",
    "steps",
    "stored_for",
]


def chain_of(module: nn.Module, name: str) -> ParametrizationList:
    """The parametrizations of a tensor, with what they store."""
    chain = module.get_submodule("parametrizations").get_submodule(name)
    assert isinstance(chain, ParametrizationList)
    return chain


def chains(module: nn.Module) -> dict[str, ParametrizationList]:
    """The parametrizations of each tensor of one module, by the tensor's name."""
    holder = children(module).get("parametrizations")  # not by attribute: wrappers may pass on what they wrap
    if not isinstance(holder, nn.ModuleDict):
        return {}
    return {name: chain for name, chain in children(holder).items() if isinstance(chain, ParametrizationList)}


def steps(chain: ParametrizationList) -> list[nn.Module]:
    """The parametrizations in the order in which they are applied."""
    return [chain.get_submodule(str(place)) for place in range(len(chain))]


def originals(chain: ParametrizationList) -> dict[str, Tensor]:
    """What is stored, by PyTorch's names: ``original``, or ``original0`` and so on."""
    names = ["original"] if chain.is_tensor else [f"original{place}" for place in range(chain.ntensors)]
    return {name: getattr(chain, name) for name in names}


def is_compact(chain: ParametrizationList) -> bool:
    """Whether fewer numbers are stored than the weight has."""
    first = steps(chain)[0]
    return isinstance(first, Parametrization) and first.stored_shape.numel() < first.known_shape.numel()


def dense_shape(chain: ParametrizationList) -> torch.Size:
    """The shape of the weight, ``(out, in)``: known to this library's parametrizations, else built if it has values."""
    first, stored = steps(chain)[0], next(iter(originals(chain).values()))
    if isinstance(first, Parametrization):
        return first.known_shape
    return stored.shape if stored.is_meta else build(chain).shape


def build(chain: ParametrizationList, state: Mapping[str, Tensor] | None = None) -> Tensor:
    """The weight, on a copy, so that what keeps statistics (spectral norm) is not moved.

    Args:
        chain: The parametrizations.
        state: A state dict of the chain to take instead of what it holds; its tensors are not copied.

    Returns:
        A contiguous tensor without a graph.
    """
    with torch.inference_mode(False), torch.no_grad():
        twin, own = copied(chain, state), originals(chain)
        if state is not None:  # what a forward may write into is a copy
            taken = {key: value if key in own else copy.deepcopy(value) for key, value in state.items()}
            twin.load_state_dict(taken, assign=True)
        weight: Tensor = twin()
    return weight.detach().contiguous()


def copied(chain: ParametrizationList, state: Mapping[str, Tensor] | None = None) -> ParametrizationList:
    """A copy to try something on; what is stored is not copied, or comes from a state dict."""
    held: dict[int, object] = {}
    for name, tensor in originals(chain).items():
        taken = tensor if state is None else state[name]
        held[id(tensor)] = nn.Parameter(taken.detach(), requires_grad=False)
    for part in chain.modules():
        spare_graphs(held, vars(part).values())
    return copy.deepcopy(chain, held)


def stored_for(chain: ParametrizationList, weight: Tensor, *, project: bool) -> dict[str, Tensor]:
    """What has to be stored for the chain to give ``weight``, through all the inverses.

    Args:
        chain: The parametrizations.
        weight: A matrix, ``(out, in)``, of the dtype that is to be stored.
        project: Whether to go to the set from outside, and take a missing inverse for none needed, as registering does;
            else the one follows ``on_infeasible``, and the other is refused.

    Raises:
        ValueError: If a parametrization has no inverse, or refuses the weight.
    """
    value = weight
    with torch.inference_mode(False), torch.no_grad():
        for step in reversed(steps(chain)):
            value = _inverse(step, value, project)
    return dict(zip(originals(chain), [value] if chain.is_tensor else value, strict=True))


def settle(chain: ParametrizationList, weight: Tensor) -> None:
    """Make the chain give ``weight``, or a member of its set that is near; no tensor is written into."""
    taken = stored_for(chain, weight, project=True)
    for name, tensor in originals(chain).items():
        give(tensor, taken[name].to(tensor.device))


def _inverse(step: nn.Module, value: Tensor, project: bool) -> Tensor:
    if isinstance(step, Parametrization):
        return step.right_inverse(step.project(value) if project else value)
    try:
        inverse: Callable[[Tensor], Tensor] = getattr(step, "right_inverse", _missing)
        return inverse(value)
    except NotImplementedError:
        if project:  # as PyTorch does when it registers
            return value
        raise ValueError(
            f"{type(step).__name__} needs a method right_inverse to give this weight. Got none. "
            "Load or assign what it stores."
        ) from None


def _missing(value: Tensor) -> Tensor:
    raise NotImplementedError
