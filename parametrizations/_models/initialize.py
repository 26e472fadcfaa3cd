"""``reset_parameters`` of a constrained layer: it initialises the stored tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parametrizations._models.changes import Changes
from parametrizations._models.constrained import Slot
from parametrizations._models.sizes import require_room
from parametrizations._torch.chains import chains
from parametrizations._torch.private import buffers, children, parameters
from parametrizations._torch.selection import Selection
from parametrizations.parametrization import Parametrization

__all__ = ["initialize"]

Room = Callable[[Slot], Tensor]


def initialize(module: nn.Module, plain: type[nn.Module], reset: Callable[[nn.Module], None]) -> None:
    """Initialise a constrained module as its plain class does.

    The distribution is that of initialising a plain layer and then registering. Tensors that the plain initialisation
    does not change are kept. If the stored tensor holds entries of the weight, only these are initialised, and the
    dense weight is not materialised, unless the initialisation needs the whole matrix.

    Args:
        module: The constrained module.
        plain: Its class without constraints.
        reset: The initialisation of the plain class.
    """
    slots = [Slot([name], module, name, chain) for name, chain in chains(module).items()]
    try:
        _initialize(module, plain, reset, slots, _room)
    except NotImplementedError:  # not entry-wise
        require_room(slots, f"{plain.__name__}.reset_parameters")
        _initialize(module, plain, reset, slots, _dense_room)


def _initialize(
    module: nn.Module, plain: type[nn.Module], reset: Callable[[nn.Module], None], slots: list[Slot], room: Room
) -> None:
    """Let a plain module that shares everything else with this one initialise new tensors, and store the result."""
    before = {slot.tensor_name: room(slot) for slot in slots}
    twin, own = plain.__new__(plain), vars(module)
    stores: dict[str, dict[str, Any]] = {
        "_parameters": dict(parameters(module)),
        "_buffers": dict(buffers(module)),
        "_modules": {name: child for name, child in children(module).items() if name != "parametrizations"},
    }
    vars(twin).update(own | stores)
    for slot in slots:
        kind = "_parameters" if isinstance(slot.first_stored, nn.Parameter) else "_buffers"
        stores[kind][slot.tensor_name] = _fresh(before[slot.tensor_name])
    reset(twin)
    changes = Changes()
    for slot in slots:
        name = slot.tensor_name
        filled = stores["_parameters"].pop(name, None)
        filled = stores["_buffers"].pop(name) if filled is None else filled
        if isinstance(filled, Selection):  # PyTorch does not count these changes
            torch.autograd.graph.increment_version(list(slot.stored.values()))
        elif not _same(filled, before[name]):
            for key, stored in slot.inverted(filled.detach(), project=True).items():
                changes.data(slot.stored[key], stored.to(slot.stored[key].device))
    for name, value in vars(twin).items():
        if name not in stores and own.get(name) is not value:
            changes.attribute(module, name, value)
    changes.draft(parameters(module)).update(stores["_parameters"])
    changes.draft(buffers(module)).update(stores["_buffers"])
    changes.draft(children(module)).update(stores["_modules"])
    changes.commit()


def _room(slot: Slot) -> Tensor:
    """The tensor to initialise: the entries in the stored tensor, if this is enough."""
    first = slot.steps[0]
    if len(slot.steps) == 1 and isinstance(first, Parametrization) and first.selects:
        return Selection(slot.first_stored.detach(), slot.shape)
    return _dense_room(slot)


def _dense_room(slot: Slot) -> Tensor:
    try:
        return slot.materialised()
    except RuntimeError:  # the stored tensor has no usable values yet
        return torch.full(slot.shape, torch.nan, dtype=slot.first_stored.dtype, device=slot.first_stored.device)


def _fresh(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor if isinstance(tensor, Selection) else tensor.clone(), requires_grad=False)


def _same(one: Tensor, other: Tensor) -> bool:
    same = (one == other) | (one.isnan() & other.isnan())
    return one.shape == other.shape and bool(same.all())
