"""Plain checkpoints in constrained models: what is loaded goes through the inverses."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._models.weights import Unreachable, stored_for
from parametrizations._torch.chains import chains, copied, given, originals, steps
from parametrizations.parametrization import Parametrization

__all__ = ["take_plain"]


def take_plain(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *arguments: Any
) -> None:
    """Replace each plain weight in a state dict by the tensor to store for it, so that PyTorch can load it.

    A weight outside the set follows ``on_infeasible``. One that is refused stays out, leaves the layer as it was, and
    is reported by ``load_state_dict``. Entries of a constrained checkpoint stay as they are.

    Args:
        module: The module that is loaded, with parametrized tensors or not any more.
        state_dict: Changed in place.
        prefix: What the module's entries begin with.
        metadata: What PyTorch says about the loading; whether it is to assign.
        arguments: The rest of what PyTorch passes to a pre-hook; the last one is where a refusal is reported.
    """
    errors, assigned = arguments[-1], metadata.get("assign_to_params_buffers", False)
    for name, chain in chains(module).items():
        plain, constrained = f"{prefix}{name}", f"{prefix}parametrizations.{name}."
        if plain not in state_dict or given(chain, state_dict, constrained):
            continue
        try:
            taken = _taken(chain, state_dict.pop(plain), assigned)
        except (TypeError, ValueError, RuntimeError) as error:
            errors.append(f"While loading the plain {plain!r}: {error} The tensor stays as it was.")
            taken = chain.state_dict()
        state_dict |= {f"{constrained}{key}": value for key, value in taken.items()}


def _taken(chain: ParametrizationList, weight: object, assigned: bool) -> dict[str, Any]:
    """The state of the chain that gives the weight."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"A weight needs to be a tensor. Got {type(weight).__name__}.")
    if not assigned:
        weight = weight.to(next(iter(originals(chain).values())).dtype)
    if all(isinstance(step, Parametrization) for step in steps(chain)):
        return chain.state_dict() | stored_for(chain, weight, project=False)
    twin = copied(chain)  # the inverses of others may write into their buffers, as orthogonal's does
    try:
        stored = stored_for(twin, weight, project=False)
    except Unreachable as error:
        raise ValueError(f"{error} Load the constrained checkpoint.") from error
    return twin.state_dict() | stored
