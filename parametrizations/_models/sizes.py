"""Whether a dense weight can be built at all."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._models.weights import dense_shape, is_compact
from parametrizations._torch.chains import originals

__all__ = ["require_room"]


def require_room(named: Iterable[tuple[str, ParametrizationList]], caller: str) -> None:
    """Refuse to build weights that are larger than the memory of their device.

    Args:
        named: Full plain names of tensors, with what computes them. Only those stored compactly count.
        caller: Who wants to build them.

    Raises:
        ValueError: If they do not fit; it names the largest and its size.
    """
    sizes: dict[torch.device, dict[str, int]] = {}
    for name, chain in named:
        if is_compact(chain):
            stored = next(iter(originals(chain).values()))
            sizes.setdefault(stored.device, {})[name] = dense_shape(chain).numel() * stored.element_size()
    for device, needed in sizes.items():
        room, largest = _memory(device), max(needed, key=needed.__getitem__)
        if room is not None and sum(needed.values()) > room:
            raise ValueError(
                f"{caller} needs {_shown(sum(needed.values()))} for dense weights on {device}, "
                f"{_shown(needed[largest])} of them for {largest!r}. Got a machine with {_shown(room)}. "
                "Keep the layer constrained, and save its state_dict()."
            )


def _memory(device: torch.device) -> int | None:
    """All the memory of a device in bytes, where it can be asked for."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shown(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
