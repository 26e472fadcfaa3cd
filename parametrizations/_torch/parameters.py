"""Another shape for a parameter that keeps its identity."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["give"]


def give(tensor: Tensor, data: Tensor) -> None:
    """Let the tensor hold other data, of any shape, and forget the gradient that it had.

    As long as the graph of an earlier pass is alive, if only through the last loss, autograd keeps a node for the
    parameter that remembers the old shape, and the next backward pass fails. PyTorch renews it when the dtype changes.

    A backward pass through an older graph raises if it needs the old values, instead of using the new ones in silence.

    Args:
        tensor: A parameter or buffer; keeps its identity and ``requires_grad``.
        data: What it holds from now on; not copied, unless ``tensor`` was made in inference mode.
    """
    tensor.grad = None
    if tensor.is_inference():  # a mixture of the two kinds cannot be computed with
        with torch.inference_mode():
            tensor.data = data.clone()
        return
    other = torch.float32 if tensor.dtype is torch.float64 else torch.float64
    torch.autograd.graph.increment_version(tensor)
    if tensor.requires_grad and tensor.shape != data.shape:  # DistributedDataParallel has put its hooks on the node
        tensor.data = data.new_empty(0, dtype=other)
    tensor.data = data
