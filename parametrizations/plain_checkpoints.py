"""Plain checkpoints in constrained models: what is loaded goes through the inverses."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations.chains import chains, stored_for

__all__ = ["take_plain"]


def take_plain(module: nn.Module, state_dict: dict[str, Any], prefix: str, errors: list[str]) -> None:
    """Put what is to be stored in the place of the plain weights in a state dict that is about to be loaded.

    A weight outside the set follows ``on_infeasible``. One that is refused stays out, leaves the layer as it was, and
    is reported by ``load_state_dict``. Entries of a constrained checkpoint stay as they are.

    Args:
        module: The module that is loaded, with parametrized tensors or not any more.
        state_dict: Changed in place.
        prefix: What the module's entries begin with.
        errors: Where a refusal is reported.
    """
    for name, chain in chains(module).items():
        plain, constrained = f"{prefix}{name}", f"{prefix}parametrizations.{name}."
        if plain in state_dict and not any(key.startswith(constrained) for key in state_dict):
            entries = chain.state_dict(prefix=constrained)
            entries |= {
                f"{constrained}{key}": value for key, value in _taken(chain, state_dict.pop(plain), errors, plain)
            }
            state_dict |= entries


def _taken(chain: ParametrizationList, weight: object, errors: list[str], key: str) -> list[tuple[str, Tensor]]:
    try:
        if not isinstance(weight, Tensor):
            raise TypeError(f"A weight needs to be a tensor. Got {type(weight).__name__}.")
        return list(stored_for(chain, weight, project=False).items())
    except (TypeError, ValueError, RuntimeError) as error:
        errors.append(f"While loading the plain {key!r}: {error} The tensor stays as it was.")
        return []
