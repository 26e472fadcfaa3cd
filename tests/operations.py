"""The operations that a call runs, by PyTorch's profiler. Unlike a dispatch mode, it changes no choice of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

__all__ = ["SCATTERS", "operations"]

SCATTERS = "aten::scatter", "aten::index_copy_"
"""The operations that write stored entries to their places."""


def operations(call: Callable[[], Any], *names: str) -> list[tuple[int, ...]]:
    """The shape of the first operand of each operation with one of these names, such as ``"aten::clone"``."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        call()
    return [tuple(event.input_shapes[0]) for event in recorded.events() if event.name in names]
