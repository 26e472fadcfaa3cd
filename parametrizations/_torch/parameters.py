"""New data, of any shape, for a parameter that keeps its identity."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["replace_data"]


def replace_data(tensor: Tensor, data: Tensor) -> None:
    """Let a tensor have other data, of any shape, and no gradient.

    While the graph of an earlier pass exists, even if only the last loss holds it, autograd keeps a node for the
    parameter with the old shape, and the next backward pass fails. PyTorch renews the node if the dtype changes. A
    backward pass through an older graph raises if it needs the old values.

    Args:
        tensor: A parameter or buffer. It keeps its identity and ``requires_grad``.
        data: The new data. It is copied only if ``tensor`` was created in inference mode.
    """
    tensor.grad = None
    if tensor.is_inference():  # PyTorch cannot compute with both kinds
        with torch.inference_mode():
            tensor.data = data.clone()
        return
    other = torch.float32 if tensor.dtype is torch.float64 else torch.float64
    torch.autograd.graph.increment_version(tensor)
    if tensor.requires_grad and tensor.shape != data.shape:  # DistributedDataParallel has put its hooks on the node
        tensor.data = data.new_empty(0, dtype=other)
    tensor.data = data
