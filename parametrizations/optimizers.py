"""What an optimizer holds for parameters that change their shape or meaning."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["forget", "replace", "require_optimizer"]


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


def forget(optimizer: Optimizer, tensors: Iterable[Tensor]) -> None:
    """Drop the state of exactly these parameters: its shape may not fit any more."""
    for tensor in tensors:
        optimizer.state.pop(tensor, None)


def replace(optimizer: Optimizer, old: list[Tensor], new: Tensor) -> None:
    """Let a parameter take the place of several that are no more."""
    gone = {id(tensor) for tensor in old}
    for group in optimizer.param_groups:
        kept = [tensor for tensor in group["params"] if id(tensor) not in gone]
        if len(kept) < len(group["params"]):
            group["params"][:] = [*kept, new]
