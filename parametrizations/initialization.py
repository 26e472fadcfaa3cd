"""``reset_parameters`` of a constrained layer: it initialises what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parametrizations.chains import chain_of, chains, dense_shape, originals, settle, steps
from parametrizations.parametrization import Parametrization
from parametrizations.selection import Selection
from parametrizations.sizes import require_room

__all__ = ["initialize"]


def initialize(module: nn.Module, plain: type[nn.Module]) -> None:
    """Do what the plain module's ``reset_parameters`` does, and start from it.

    What is stored gets the distribution that initialising a plain layer and then registering would give. Where it is a
    selection of the weight's entries, it is filled as such, and the dense weight is never built.

    Args:
        module: The constrained module.
        plain: Its class without constraints.
    """
    try:
        twin = _initialized(module, plain, _room)
    except NotImplementedError:  # not entry-wise: it takes the dense weight
        require_room([(name, chain) for name, chain in chains(module).items()], f"{plain.__name__}.reset_parameters")
        twin = _initialized(module, plain, _dense_room)
    for name, parameter in twin._parameters.items():
        if name in module._parameters:
            module._parameters[name] = parameter  # in case that it was replaced rather than filled
        elif not isinstance(parameter, Selection):
            settle_in_place(module, name, parameter)


def settle_in_place(module: nn.Module, name: str, weight: Tensor | None) -> None:
    """Start from a weight, keeping the tensors that an optimizer may know."""
    assert weight is not None
    settle(chain_of(module, name), weight.detach())


def _initialized(module: nn.Module, plain: Any, room: Callable[[nn.Module, str], nn.Parameter]) -> Any:
    """A module of the plain class with the same tensors, and room where one is constrained, initialised."""
    twin = plain.__new__(plain)
    vars(twin).update(vars(module))
    vars(twin)["_modules"] = {name: child for name, child in module._modules.items() if name != "parametrizations"}
    vars(twin)["_parameters"] = dict(module._parameters) | {name: room(module, name) for name in chains(module)}
    plain.reset_parameters(twin)
    return twin


def _room(module: nn.Module, name: str) -> nn.Parameter:
    chain = chain_of(module, name)
    only, stored = steps(chain)[0], next(iter(originals(chain).values()))
    if len(chain) == 1 and isinstance(only, Parametrization) and only.selects:
        return nn.Parameter(Selection(stored.detach(), only.known_shape), requires_grad=False)
    return _dense_room(module, name)


def _dense_room(module: nn.Module, name: str) -> nn.Parameter:
    chain = chain_of(module, name)
    stored = next(iter(originals(chain).values()))
    return nn.Parameter(torch.empty(dense_shape(chain), dtype=stored.dtype, device=stored.device))
