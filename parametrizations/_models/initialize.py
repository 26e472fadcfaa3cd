"""``reset_parameters`` of a constrained layer: it initialises what is stored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from parametrizations._models.rollback import all_or_nothing
from parametrizations._models.selection import Selection
from parametrizations._models.sizes import require_room
from parametrizations._models.weights import dense_shape, settle
from parametrizations._torch.chains import build, chain_of, chains, originals, steps
from parametrizations._torch.private import buffers, children, parameters
from parametrizations.parametrization import Parametrization

__all__ = ["initialize"]

Room = Callable[[nn.Module, str], Tensor]


def initialize(module: nn.Module, plain: type[nn.Module], reset: Callable[[nn.Module], None]) -> None:
    """Do what the plain module does to initialise itself, and start from it.

    The result has the same distribution as initialising a plain layer and then registering. Tensors that the plain
    initialisation does not touch stay. Where only some entries of the weight are stored, they alone are filled, and the
    dense weight is never built, unless the initialisation needs the whole matrix.

    Args:
        module: The constrained module.
        plain: Its class without constraints.
        reset: The plain class's initialisation.
    """
    try:
        _initialize(module, plain, reset, _room)
    except NotImplementedError:  # not entry-wise
        require_room([(name, chain) for name, chain in chains(module).items()], f"{plain.__name__}.reset_parameters")
        _initialize(module, plain, reset, _dense_room)


def _initialize(module: nn.Module, plain: type[nn.Module], reset: Callable[[nn.Module], None], room: Room) -> None:
    before = {name: room(module, name) for name in chains(module)}
    rooms = {name: _fresh(tensor) for name, tensor in before.items()}
    constrained, held = type(module), children(module)
    order, parametrizations = list(held), held["parametrizations"]
    stores = {name: _store(module, name) for name in rooms}
    with all_or_nothing([module]):
        del held["parametrizations"]
        module.__class__ = plain
        for name, store in stores.items():
            store[name] = rooms[name]
        reset(module)
        filled = {name: store.pop(name) for name, store in stores.items()}
        module.__class__ = constrained
        held["parametrizations"] = parametrizations
        for name in [name for name in order if name in held]:
            held[name] = held.pop(name)
        for name, tensor in filled.items():
            if isinstance(tensor, Selection):  # filled below the layer of PyTorch that counts changes
                torch.autograd.graph.increment_version(list(originals(chain_of(module, name)).values()))
            elif not _same(tensor, before[name]):
                settle(chain_of(module, name), tensor.detach())


def _store(module: nn.Module, name: str) -> dict[str, Tensor]:
    stored = next(iter(originals(chain_of(module, name)).values()))
    store: dict[str, Tensor] = parameters(module) if isinstance(stored, nn.Parameter) else buffers(module)  # type: ignore[assignment]
    return store


def _room(module: nn.Module, name: str) -> Tensor:
    """Where the tensor is filled: among what is stored, if that is enough."""
    chain = chain_of(module, name)
    only, stored = steps(chain)[0], next(iter(originals(chain).values()))
    if len(chain) == 1 and isinstance(only, Parametrization) and only.selects:
        return Selection(stored.detach(), only._known_shape)
    return _dense_room(module, name)


def _dense_room(module: nn.Module, name: str) -> Tensor:
    chain = chain_of(module, name)
    try:
        return build(chain)
    except RuntimeError:  # nothing that can be computed with has been stored yet
        stored = next(iter(originals(chain).values()))
        return torch.full(dense_shape(chain), torch.nan, dtype=stored.dtype, device=stored.device)


def _fresh(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor if isinstance(tensor, Selection) else tensor.clone(), requires_grad=False)


def _same(one: Tensor, other: Tensor) -> bool:
    same = (one == other) | (one.isnan() & other.isnan())
    return one.shape == other.shape and bool(same.all())
