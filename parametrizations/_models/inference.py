"""Tensors created in inference mode, which cannot be trained."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

from parametrizations._models.changes import Changes
from parametrizations._models.constrained import full_name
from parametrizations._models.optimizers import renew
from parametrizations._torch.private import buffers, flat_weights, parameters

__all__ = ["leave_inference"]


def leave_inference(changes: Changes, model: nn.Module, optimizer: Optimizer | None) -> dict[int, Tensor]:
    """Replace the tensors created in inference mode by trainable copies.

    The model outlives the block of inference mode. A mixture of both kinds would run, and fail at the first backward
    pass.

    Returns:
        The copies, by the ``id`` of the tensor that each replaces.
    """
    replaced: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        for store in (parameters(module), buffers(module)):
            for name, tensor in store.items():
                if tensor is None or not tensor.is_inference():
                    continue
                if id(tensor) not in replaced:
                    data = tensor.data.clone()
                    copied = nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data
                    replaced[id(tensor)] = copied
                    renew(changes, optimizer, [tensor], {full_name(prefix, name): copied})
                changes.draft(store)[name] = replaced[id(tensor)]
        if replaced and isinstance(module, nn.RNNBase):
            weights = changes.draft(flat_weights(module))
            weights[:] = [replaced.get(id(tensor), tensor) for tensor in weights]
    return replaced
