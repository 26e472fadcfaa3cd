"""Sharded tensors: detection, and advice for error messages."""

from __future__ import annotations

from torch import Tensor

__all__ = ["GATHER", "is_sharded"]

GATHER = (
    "Gather the checkpoint with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True))"
)
"""The advice for a sharded model, in error messages."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is sharded over several processes."""
    return hasattr(tensor, "placements") and hasattr(tensor, "full_tensor")
