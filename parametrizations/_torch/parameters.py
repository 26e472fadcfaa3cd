"""Detects parameters sharded over processes, and replaces the data of a parameter without replacing the object."""

from __future__ import annotations

import torch
from torch import Tensor

GATHER = (
    "Gather the checkpoint with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True))"
)
"""The advice for a sharded model, in error messages."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is sharded over several processes."""
    return hasattr(tensor, "placements") and hasattr(tensor, "full_tensor")


def replace_data(tensor: Tensor, data: Tensor) -> None:
    """Replace the data of a tensor by data of any shape, and clear its gradient.

    Autograd keeps a node with the old shape while a graph of an earlier pass exists, even if only the last loss holds
    the graph. The next backward pass would then fail. So the tensor first gets empty data of another dtype,
    for which PyTorch renews the node. A backward pass through an older graph raises an error if it needs the old
    values.

    Args:
        tensor: A parameter or buffer. It keeps its identity and ``requires_grad``.
        data: The new data. It is copied only if ``tensor`` was created in inference mode.
    """
    tensor.grad = None
    if tensor.is_inference():  # PyTorch does not mix tensors of inference mode with others
        with torch.inference_mode():
            tensor.data = data.clone()
        return
    other = torch.float32 if tensor.dtype is torch.float64 else torch.float64
    torch.autograd.graph.increment_version(tensor)
    if tensor.requires_grad and tensor.shape != data.shape:
        # A change of dtype renews autograd's node. Done only for a new shape, since the new node lacks DDP's hooks.
        tensor.data = data.new_empty(0, dtype=other)
    tensor.data = data
