"""``reset_parameters`` of a constrained layer: it initialises as the plain layer does, and applies the constraint."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from parametrizations._models.changes import Changes
from parametrizations._models.constrained import Slot, entries_of, slots_of
from parametrizations._models.sizes import require_present, require_room
from parametrizations._models.step_state import inverted_beside
from parametrizations._torch.private import buffers, children, parameters
from parametrizations._torch.selection import Selection

ADVICE = "Initialise the stored tensor itself: layer.parametrizations.weight.original."


def initialize(module: nn.Module, plain: type[nn.Module], reset: Callable[[nn.Module], None]) -> None:
    """Initialise a constrained module as its plain class does.

    The distribution is that of initialising a plain layer and then registering. A constrained tensor stays as stored if
    ``reset`` does not change it. If the stored tensor holds entries of the weight, only these are initialised,
    without the dense weight, unless the initialisation needs the whole matrix.

    Args:
        module: The constrained module.
        plain: The module's class without constraints.
        reset: The initialisation method of the plain class.
    """
    slots, caller = slots_of(module), f"{plain.__name__}.reset_parameters"
    require_present(slots, caller)
    states = _generator_states(slots)
    with torch.inference_mode(False):  # the stored values outlive the caller's inference mode
        selections = {slot: _selection(slot) for slot in slots}
        require_room([slot for slot, selection in selections.items() if selection is None], caller, ADVICE)
        rooms = {slot: _dense_room(slot) if one is None else one for slot, one in selections.items()}
        try:
            _initialize(module, plain, reset, rooms)
        except NotImplementedError:  # `reset` needs the whole matrix
            require_room(slots, caller, ADVICE)
            for set_state, state in states:
                set_state(state)
            _initialize(module, plain, reset, {slot: _dense_room(slot) for slot in slots})


def _initialize(
    module: nn.Module, plain: type[nn.Module], reset: Callable[[nn.Module], None], rooms: dict[Slot, Tensor]
) -> None:
    """Let the plain module fill copies of the weights in ``rooms``, and store them by inverting the constraints."""
    filled = {slot: _fresh(room) for slot, room in rooms.items()}
    with _plain(module, plain, filled):
        reset(module)
        for slot in rooms:
            store = parameters(module) if slot.tensor_name in parameters(module) else buffers(module)
            filled[slot] = store[slot.tensor_name]  # type: ignore[assignment]
    changes = Changes()
    for slot, before in rooms.items():
        after = filled[slot]
        if isinstance(after, Selection) and isinstance(before, Selection):
            stored = slot.inverted_entries(after.entries)
            if stored is not None and not _same(after.entries, before.entries):
                changes.data(slot.first_stored, stored, slot.first_stored.grad)
        elif not _same(after, before):
            for key, value in inverted_beside(changes, slot, after.detach(), project=True).items():
                changes.data(slot.stored[key], value.to(slot.stored[key].device))
    changes.commit()


@contextmanager
def _plain(module: nn.Module, plain: type[nn.Module], tensors: dict[Slot, nn.Parameter]) -> Iterator[None]:
    """Make a module plain inside the block, with the given tensors. If the block raises, undo all other changes."""
    constrained, held = type(module), children(module)
    order, lists = list(held), held["parametrizations"]
    stores: list[dict[str, Any]] = [vars(module), parameters(module), buffers(module), held]
    before = [dict(store) for store in stores]
    try:
        del held["parametrizations"]
        module.__class__ = plain
        for slot, tensor in tensors.items():
            store = stores[1] if isinstance(slot.first_stored, nn.Parameter) else stores[2]
            store[slot.tensor_name] = tensor
        yield
    except BaseException:
        for store, contents in zip(stores, before, strict=True):
            store.clear()
            store.update(contents)
        raise
    finally:
        module.__class__ = constrained
        for slot, store in itertools.product(tensors, stores[1:3]):
            store.pop(slot.tensor_name, None)
        held["parametrizations"] = lists
        for name in [name for name in order if name in held]:
            held[name] = held.pop(name)


def _generator_states(slots: list[Slot]) -> list[tuple[Callable[[Tensor], Any], Tensor]]:
    """For the CPU, and each GPU with stored tensors: the function that sets the generator's state, and the state."""
    devices = {slot.first_stored.device for slot in slots if slot.first_stored.is_cuda}
    states: list[tuple[Callable[[Tensor], Any], Tensor]] = [(torch.set_rng_state, torch.get_rng_state())]
    for device in devices:
        states.append((partial(torch.cuda.set_rng_state, device=device), torch.cuda.get_rng_state(device)))
    return states


def _selection(slot: Slot) -> Selection | None:
    """The entries to initialise, if they alone determine the stored tensor; None if the whole weight is needed."""
    follows = slot.inverted_entries(slot.first_stored.detach()) is not None
    entries = entries_of(slot.chain) if follows else None
    return None if entries is None else Selection(entries.detach(), slot.shape)


def _dense_room(slot: Slot) -> Tensor:
    try:
        return slot.materialised()
    except RuntimeError:  # a step may fail on the arbitrary numbers that `to_empty` leaves
        return torch.full(slot.shape, torch.nan, dtype=slot.first_stored.dtype, device=slot.first_stored.device)


def _fresh(tensor: Tensor) -> nn.Parameter:
    own = Selection(tensor.entries.clone(), tensor.shape) if isinstance(tensor, Selection) else tensor.clone()
    return nn.Parameter(own, requires_grad=False)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or one.shape != other.shape:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
