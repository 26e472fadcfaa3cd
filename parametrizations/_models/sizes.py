"""Checks that weights are not offloaded, and that dense weights fit into the memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from parametrizations._models.constrained import Slot
from parametrizations._products.dense import memory_of, shown

KEEP = "Keep the layer constrained, and save its state_dict()."


def require_present(slots: Iterable[Slot], caller: str, model: nn.Module | None = None) -> None:
    """Refuse tensors that accelerate has moved to the CPU memory or to the disk.

    They are on the meta device, and a hook of the module, or of a parent in the ``model``, loads the data for each
    forward pass.
    """
    parts = [] if model is None else list(model.modules())
    for slot in slots:
        if not any(tensor.is_meta for tensor in slot.stored.values()):
            continue
        if any(hasattr(holder, "_hf_hook") for holder in (slot.parametrizations or slot.module, *parts)):
            raise ValueError(
                f"{caller} needs the values of {slot.name!r}. Got a tensor that accelerate has offloaded. Remove its "
                "hooks first, accelerate.hooks.remove_hook_from_submodules(model), and offload the model again "
                "afterwards."
            )


def require_room(slots: Iterable[Slot], caller: str, advice: str = KEEP) -> None:
    """Require that the dense weights fit into the memory of their device.

    Only weights with fewer stored numbers than entries are counted.
    """
    sizes: dict[torch.device, dict[str, int]] = {}
    for slot in slots:
        if slot.is_compact:
            stored = slot.first_stored
            sizes.setdefault(stored.device, {})[slot.name] = slot.shape.numel() * stored.element_size()
    for device, needed in sizes.items():
        room, largest = memory_of(device), max(needed, key=needed.__getitem__)
        if room is not None and sum(needed.values()) > room:
            raise ValueError(
                f"{caller} needs {shown(sum(needed.values()))} for dense weights on {device}, "
                f"{shown(needed[largest])} of them for {largest!r}. Got a device with {shown(room)}. "
                f"{advice}"
            )
