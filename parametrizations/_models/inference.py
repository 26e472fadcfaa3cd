"""Tensors that were made in inference mode, with which nothing can be trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from parametrizations._models.optimizers import renew
from parametrizations._models.places import full_name
from parametrizations._torch.private import buffers, parameters

__all__ = ["holders", "leave_inference"]


def holders(model: nn.Module) -> list[nn.Module]:
    """The modules that hold such a tensor."""
    return [module for module in model.modules() if any(_held(module))]


@torch.inference_mode(False)
def leave_inference(model: nn.Module, optimizer: Optimizer | None) -> None:
    """Put copies that can be trained in the place of such tensors, in the model and in its optimizer.

    A model that is changed in place outlives the block that it was made in. A mixture of both kinds would run, and fail
    at the first backward pass.
    """
    made: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        for name, tensor in list(_held(module)):
            if id(tensor) not in made:
                made[id(tensor)] = _trainable(tensor)
                if optimizer is not None:
                    renew(optimizer, [tensor], {full_name(prefix, name): made[id(tensor)]})
            setattr(module, name, made[id(tensor)])  # a recurrent layer takes note


def _held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*parameters(module).items(), *buffers(module).items()):
        if tensor is not None and tensor.is_inference():
            yield name, tensor


def _trainable(tensor: Tensor) -> Tensor:
    copied = tensor.data.clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
