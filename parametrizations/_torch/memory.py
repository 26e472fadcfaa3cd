"""Whether a dense weight fits into the memory of its device."""

from __future__ import annotations

import os

import torch
from torch import Tensor

__all__ = ["LARGE", "fits", "memory_of", "require_memory", "shown"]

LARGE = 2**28
"""Up to this number of entries the size of a dense weight is not checked."""


def fits(entries: int, like: Tensor) -> bool:
    """Whether a tensor with this number of entries, and the dtype and device of ``like``, fits into the memory."""
    room = memory_of(like.device) if entries > LARGE else None
    return room is None or entries * like.element_size() <= room


def require_memory(name: str, entries: int, like: Tensor) -> None:
    """Refuse to allocate a dense weight with this number of entries, and the dtype and device of ``like``.

    Raises:
        ValueError: If it does not fit. The message begins with ``name``, the constraint.
    """
    if not fits(entries, like):
        raise ValueError(
            f"{name} needs {shown(entries * like.element_size())} for the dense weight, with {entries} entries. Got a "
            f"machine with {shown(memory_of(like.device) or 0)}. Call the layer, which needs no dense weight unless "
            "product='dense' is set, instead of reading its weight."
        )


def memory_of(device: torch.device) -> int | None:
    """The memory of a device in bytes; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def shown(size: float) -> str:
    """A number of bytes as text."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
