"""The state of an optimizer whose parameters are replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adagrad, Optimizer

from parametrizations._models.changes import Changes
from parametrizations._torch.private import LBFGS_SIZE, UNFUSED

__all__ = ["renew", "require_optimizer"]


def require_optimizer(optimizer: object, caller: str, tensors: Mapping[str, Tensor]) -> None:
    """Check the optimizer that a call was given; None is allowed.

    Args:
        optimizer: The argument.
        caller: The name of the call.
        tensors: The parameters that the call changes, by name.

    Raises:
        TypeError: If it is not an optimizer.
        ValueError: If it has none of the parameters.
    """
    if optimizer is None:
        return
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
    changes: Changes,
    optimizer: Optimizer | None,
    old: Iterable[Tensor],
    new: Mapping[str, Tensor],
    shared: Iterable[Tensor] = (),
) -> None:
    """Drop the state of parameters, and replace them in their group.

    Args:
        changes: Where the changes are collected.
        optimizer: The optimizer, or None.
        old: The parameters whose state no longer fits.
        new: The parameters that replace them, by name. Some may be the same objects.
        shared: Parameters that another layer keeps, so they stay with their state. ``new`` is inserted after them.
    """
    if optimizer is None:
        return
    gone, staying = {id(tensor): tensor for tensor in old}, {id(tensor): tensor for tensor in shared}
    state = changes.draft(optimizer.state)
    if isinstance(optimizer, LBFGS):  # one history for all parameters
        state.clear()
        changes.attribute(optimizer, *LBFGS_SIZE)
    states = [state.pop(tensor, {}) for tensor in gone.values()] + [state.get(one, {}) for one in staying.values()]
    moved = any("momentum_buffer" in each for each in states)
    for group in optimizer.param_groups:
        members, names = changes.draft(group["params"]), changes.draft(group.get("param_names", []))
        keys = list(map(id, members))
        if (gone.keys() | staying).isdisjoint(keys):
            continue
        added = {name: tensor for name, tensor in new.items() if id(tensor) in gone or id(tensor) not in keys}
        _exchange(members, keys, gone.keys(), staying.keys(), list(added.values()))
        _exchange(names, keys, gone.keys(), staying.keys(), list(added))
        if isinstance(optimizer, Adagrad) and added:  # older releases create its state in the constructor
            options = {name: group[name] for name in optimizer.defaults}
            twins: dict[Tensor, Tensor] = {nn.Parameter(changes.data_of(one)): one for one in added.values()}
            state.update({twins[twin]: own for twin, own in Adagrad(list(twins), **options).state.items()})
        if group.get("fused") and moved:
            _start_without_momentum(changes, optimizer, group, list(added.values()))
        new = {}  # in one group, or each step would be taken twice


def _start_without_momentum(
    changes: Changes, optimizer: Optimizer, group: dict[str, Any], new: Sequence[Tensor]
) -> None:
    """Let new parameters start without momentum. Fused SGD requires momentum for all parameters or for none."""
    state, members = changes.draft(optimizer.state), changes.draft(group["params"])
    if not group.get("dampening"):  # zeros have the same effect as no momentum
        state.update({tensor: {"momentum_buffer": torch.zeros_like(changes.data_of(tensor))} for tensor in new})
    elif any("momentum_buffer" in state.get(tensor, {}) for tensor in members):
        changes.draft(group)["fused"] = False  # the first gradient is not dampened, which state cannot express
        changes.attribute(optimizer, *UNFUSED)


def _exchange(members: list[Any], keys: list[int], gone: Set[int], staying: Set[int], new: list[Any]) -> None:
    """Insert the new members at the first one that is gone, or after the first one that stays."""
    old = members[:]
    first = next(index for index, key in enumerate(keys) if key in gone | staying)
    if old:
        members[:] = [
            member
            for index, (key, one) in enumerate(zip(keys, old, strict=True))
            for member in ([] if key in gone else [one]) + (new if index == first else [])
        ]
