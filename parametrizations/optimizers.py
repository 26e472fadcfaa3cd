"""What an optimizer holds for parameters that change their shape or meaning."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["renew", "require_optimizer"]


def require_optimizer(optimizer: object, caller: str) -> None:
    """Refuse what is no optimizer.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{caller} needs a torch.optim.Optimizer. Got {type(optimizer).__name__}. "
            "Pass the one that steps on the model's parameters."
        )


def renew(optimizer: Optimizer, old: list[Tensor], new: Tensor) -> None:
    """Drop the state of parameters, and let one take their place.

    Args:
        optimizer: Changed in place.
        old: The parameters whose state does not fit any more.
        new: The one that takes their place; it may be one of them.
    """
    states = [optimizer.state.pop(tensor, {}) for tensor in old]
    places = {id(tensor) for tensor in old}
    for group in optimizer.param_groups:
        parameters = group["params"]
        if any(id(tensor) in places for tensor in parameters):
            parameters[:] = dict.fromkeys(new if id(tensor) in places else tensor for tensor in parameters)
            if group.get("fused") and any("momentum_buffer" in state for state in states):
                # Fused SGD fails where only some have momentum; from zeros it starts as from nothing.
                optimizer.state[new] = {"momentum_buffer": torch.zeros_like(new)}
