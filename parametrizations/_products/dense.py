"""Dense weights from stored tensors, by plain autograd; and whether they fit into the memory of their device."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._torch.private import are_transforms_active, is_traced
from parametrizations._torch.transforms import is_recorded, may_look_at_values

LARGE = 2**28
"""Up to this number of entries, the size of a dense weight is not compared with the memory of its device."""
MANY = 2**12
"""From this number of stored values on, ``index_copy_`` is faster than ``scatter``, forward and backward."""


def scattered(values: Tensor, places: Tensor, size: int) -> Tensor:
    """Zeros with values at the given positions: ``(size,)``.

    Unlike ``scatter``, ``index_copy_`` does not copy the zeros. `torch.func.vmap` does not support it in place.

    Args:
        values: ``(n,)``.
        places: The positions, ``(n,)``, int64, all different.
        size: The number of entries of the result.
    """
    if size > LARGE:
        require_memory("MaskedSparse", size, values)
    zeros = values.new_zeros(size)
    if is_traced() or values.numel() < MANY:
        return zeros.scatter(0, places, values)
    if may_look_at_values(values):
        return zeros.index_copy_(0, places, values)
    if are_transforms_active() and not is_recorded():
        return zeros.index_copy(0, places, values)
    return zeros.scatter(0, places, values)


def with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """A copy of matrices ``(*batch, out, in)`` with ``diagonal``, ``(*batch, min(out, in))``, as main diagonals.

    Exported and traced programs use ``where``, because ONNX exporters reject ``diagonal_scatter``: the exporter of
    torch 2.13 decomposes it into an in-place copy, and then refuses the copy; the older TorchScript exporter lacks the
    operator.
    """
    if not (torch.compiler.is_exporting() or is_traced()):
        return matrix.diagonal_scatter(diagonal, 0, -2, -1)
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape[-2:])
    column = F.pad(diagonal, (0, matrix.shape[-2] - diagonal.shape[-1]))[..., None]
    return torch.where(rows[:, None] == columns, column, matrix)


def fits(entries: int, like: Tensor) -> bool:
    """Whether ``entries`` numbers of ``like``'s dtype fit into the total memory of its device; True up to `LARGE`."""
    room = memory_of(like.device) if entries > LARGE else None
    return room is None or entries * like.element_size() <= room


def require_memory(name: str, entries: int, like: Tensor) -> None:
    """Refuse a dense weight that does not fit. ``name`` is the constraint's; other arguments are those of `fits`."""
    if not fits(entries, like):
        raise ValueError(
            f"{name} needs {shown(entries * like.element_size())} for the dense weight, with {entries} entries. Got a "
            f"machine with {shown(memory_of(like.device) or 0)} on {like.device}. Call the layer instead of reading "
            "its weight. If the layer needs the dense weight, too, fuse it, or set another product than 'dense'."
        )


def memory_of(device: torch.device) -> int | None:
    """The total memory of a device in bytes; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def shown(size: float) -> str:
    """A number of bytes as text, such as ``"1.5 GB"``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
