"""Which of PyTorch's transforms is at work: what its public functions do not tell."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_batched_by_autograd", "is_traced_for_a_file"]


def is_batched_by_autograd(*tensors: Tensor) -> bool:
    """Whether ``is_grads_batched`` or ``jacobian(vectorize=True)`` runs a backward pass for many at once.

    They use the predecessor of `torch.func.vmap`, which knows neither an autograd function's ``vmap`` nor
    sparse tensors.
    """
    if torch.compiler.is_compiling():
        return False
    return any(torch._C._functorch.is_legacy_batchedtensor(tensor) for tensor in tensors)


def is_traced_for_a_file() -> bool:
    """Whether `torch.export` or `torch.jit.trace` is at work: what they save may need nothing of ours."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None
