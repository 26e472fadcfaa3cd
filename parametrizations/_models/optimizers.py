"""What an optimizer holds for parameters that change their shape or meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Adagrad, Optimizer

from parametrizations._torch.private import forget_size, unscale_first

__all__ = ["renew", "require_optimizer"]


def require_optimizer(optimizer: object, caller: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is no optimizer of a call's parameters.

    Args:
        optimizer: What the caller was given.
        caller: The name of the call.
        tensors: The parameters that the call changes, by name.

    Raises:
        TypeError: If it is no optimizer.
        ValueError: If it has none of the parameters.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{caller} needs a torch.optim.Optimizer. Got {type(optimizer).__name__}. Pass the one that steps on "
            "the model's parameters; where there are several, make them anew afterwards."
        )
    known = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    if tensors and not any(id(tensor) in known for tensor in tensors.values()):
        raise ValueError(
            f"{caller} needs the optimizer of the parameters that it changes, such as {next(iter(tensors))!r}. Got one "
            "that has none of them. Pass the one that was made with this model's parameters."
        )


def renew(
    optimizer: Optimizer, old: Sequence[Tensor], new: Mapping[str, Tensor], beside: Sequence[Tensor] = ()
) -> None:
    """Drop the state of parameters, and let others take their place.

    Args:
        optimizer: Changed in place.
        old: The parameters whose state does not fit any more.
        new: Those that take their place, by name, in the first group that had one; they may be the same.
        beside: Parameters that the new ones have come apart from: these stay, with their state, since others use them.
    """
    gone, staying = {id(tensor) for tensor in old}, {id(tensor) for tensor in beside}
    if isinstance(optimizer, LBFGS):  # its history is one of all parameters together
        optimizer.state.clear()
        forget_size(optimizer)
    states = [optimizer.state.pop(tensor, {}) for tensor in old] + [optimizer.state.get(one, {}) for one in beside]
    moved = any("momentum_buffer" in state for state in states)
    for group in optimizer.param_groups:
        held = list(map(id, group["params"]))
        if not (gone | staying).isdisjoint(held):
            _exchange(group["params"], held, gone, staying, list(new.values()))
            _exchange(group.get("param_names", []), held, gone, staying, list(new))
            if isinstance(optimizer, Adagrad) and new:  # older releases make its state when it is made
                options = {name: group[name] for name in optimizer.defaults}
                optimizer.state |= Adagrad(list(new.values()), **options).state
            if group.get("fused") and moved:
                _start_beside_others(optimizer, group, list(new.values()))
            new = {}  # in one group, or each step would be taken twice


def _start_beside_others(optimizer: Optimizer, group: dict[str, Any], new: Sequence[Tensor]) -> None:
    """Let some parameters start without momentum where others have it, which fused SGD takes for damaged state."""
    if not group.get("dampening"):  # from zeros it starts as from nothing
        optimizer.state |= {tensor: {"momentum_buffer": torch.zeros_like(tensor)} for tensor in new}
    elif any("momentum_buffer" in optimizer.state.get(tensor, {}) for tensor in group["params"]):
        group["fused"] = False  # a first gradient is not dampened, which no state can say
        unscale_first(optimizer)


def _exchange(members: list[Any], held: list[int], gone: Set[int], staying: Set[int], new: list[Any]) -> None:
    """Put the new members where the first one is gone from, or after the first one that stays."""
    first = next(place for place, one in enumerate(held) if one in gone | staying)
    if members:
        members[:] = [
            member
            for place, (one, old) in enumerate(zip(held, list(members), strict=True))
            for member in ([] if one in gone else [old]) + (new if place == first else [])
        ]
