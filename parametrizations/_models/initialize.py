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

    The distribution is that of initialising a plain layer and then registering. Other tensors are kept. If the stored
    tensor holds entries of the weight, only these are initialised, and the dense weight is not materialised, unless the
    initialisation needs the whole matrix.

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
    twin = plain.__new__(plain)
    tensors: dict[str, Any] = dict(parameters(module))
    fixed: dict[str, Any] = dict(buffers(module))
    for slot in slots:
        store = tensors if isinstance(slot.first_stored, nn.Parameter) else fixed
        store[slot.tensor_name] = _fresh(before[slot.tensor_name])
    held = {name: child for name, child in children(module).items() if name != "parametrizations"}
    vars(twin).update(vars(module) | {"_parameters": tensors, "_buffers": fixed, "_modules": held})
    reset(twin)
    _store(module, slots, before, vars(twin))


def _store(module: nn.Module, slots: list[Slot], before: dict[str, Tensor], own: dict[str, Any]) -> None:
    """Store the new values of the constrained tensors, and take over all other attributes of the plain module."""
    tensors, fixed, held = own.pop("_parameters"), own.pop("_buffers"), own.pop("_modules")
    changes = Changes()
    for slot in slots:
        filled = (tensors if slot.tensor_name in tensors else fixed).pop(slot.tensor_name)
        if isinstance(filled, Selection):  # PyTorch does not count these changes
            torch.autograd.graph.increment_version(list(slot.stored.values()))
        elif not _same(filled, before[slot.tensor_name]):
            for key, stored in slot.inverted(filled.detach(), project=True).items():
                changes.data(slot.stored[key], stored.to(slot.stored[key].device))
    for name, value in own.items():
        changes.attribute(module, name, value)
    changes.draft(parameters(module)).update(tensors)
    changes.draft(buffers(module)).update(fixed)
    changes.draft(children(module)).update(held)
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
