"""Replaces parameters in an optimizer, and moves optimizer state along with the entries of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Adagrad, Optimizer, Rprop

from parametrizations._models.changes import Changes
from parametrizations._models.constrained import full_name
from parametrizations._torch.private import LBFGS_SIZE, UNFUSED, buffers, flat_weights, parameters
from parametrizations.masks.kept import Move


def require_optimizer(optimizer: object, caller: str, tensors: Mapping[str, Tensor]) -> None:
    """Require None, or an optimizer with at least one of the ``tensors``, the parameters that the caller changes."""
    if optimizer is None:
        return
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{caller} needs a torch.optim.Optimizer. Got {type(optimizer).__name__}. Pass the optimizer of "
            "the model. If there are several, pass None, and create them again afterwards."
        )
    known = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    if tensors and not any(id(tensor) in known for tensor in tensors.values()):
        raise ValueError(
            f"{caller} needs the optimizer of the changed parameters, such as {next(iter(tensors))!r}. Got one "
            "without any of them. Pass the optimizer of this model."
        )


def renew(
    changes: Changes,
    optimizer: Optimizer | None,
    old: Iterable[Tensor],
    new: Mapping[str, Tensor],
    shared: Iterable[Tensor] = (),
) -> None:
    """Drop the state of ``old`` parameters, and replace them in their group by ``new`` ones, given by name.

    A parameter may be both old and new: its state is dropped, and it stays in its group. Other layers use the
    ``shared`` parameters, so these keep their state and place.
    """
    if optimizer is None:
        return
    gone, staying = {id(tensor): tensor for tensor in old}, {id(tensor): tensor for tensor in shared}
    state = changes.draft(optimizer.state)
    if isinstance(optimizer, LBFGS):  # one history for all parameters
        state.clear()
        changes.attribute(optimizer, *LBFGS_SIZE)
    states = [state.pop(one, {}) for one in gone.values()] + [state.get(one, {}) for one in staying.values()]
    moved = any("momentum_buffer" in each for each in states)
    kept = {id(one) for group in optimizer.param_groups for one in changes.draft(group["params"])} - gone.keys()
    for group in optimizer.param_groups:
        keys = list(map(id, changes.draft(group["params"])))
        if not (gone.keys() | staying).isdisjoint(keys):
            added = {name: tensor for name, tensor in new.items() if id(tensor) not in kept}
            _exchange(changes.draft(group["params"]), keys, gone.keys(), staying.keys(), list(added.values()))
            _exchange(changes.draft(group.get("param_names", [])), keys, gone.keys(), staying.keys(), list(added))
            _start(changes, optimizer, group, list(added.values()), moved)
            new = {}  # no other group gets the new ones, or each step would update them twice


def _start(changes: Changes, optimizer: Optimizer, group: dict[str, Any], new: Sequence[Tensor], moved: bool) -> None:
    """Give new parameters the state that an optimizer step requires; ``moved``: old ones had momentum buffers."""
    state, members = changes.draft(optimizer.state), changes.draft(group["params"])
    if isinstance(optimizer, Adagrad) and new:  # in older releases of PyTorch, its constructor creates the state
        known = Adagrad([torch.zeros(1)]).defaults  # a subclass may have more options
        options = {name: group[name] for name in known if name in group}
        twins: dict[Tensor, Tensor] = {nn.Parameter(changes.data_of(one)): one for one in new}
        state.update({twins[twin]: own for twin, own in Adagrad(list(twins), **options).state.items()})
    if not (group.get("fused") and moved):
        return
    # Fused SGD needs momentum buffers for all parameters or none. Without dampening, zeros act like no buffer.
    if not group.get("dampening"):
        state.update({tensor: {"momentum_buffer": torch.zeros_like(changes.data_of(tensor))} for tensor in new})
    elif any("momentum_buffer" in state.get(tensor, {}) for tensor in members):
        changes.draft(group)["fused"] = False
        changes.attribute(optimizer, *UNFUSED)


def _exchange(members: list[Any], keys: list[int], gone: Set[int], staying: Set[int], new: list[Any]) -> None:
    """Replace the members with keys in ``gone`` by the ``new`` members, in the place of the first removed member.

    If a member with a key in ``staying`` comes earlier, insert the new members behind the first such member instead.
    """
    old = members[:]
    first = next(index for index, key in enumerate(keys) if key in gone | staying)
    if old:
        members[:] = [
            member
            for index, (key, one) in enumerate(zip(keys, old, strict=True))
            for member in ([] if key in gone else [one]) + (new if index == first else [])
        ]


def leave_inference(changes: Changes, model: nn.Module, optimizer: Optimizer | None) -> dict[int, Tensor]:
    """Replace the tensors created in inference mode by trainable copies, in the model and in the optimizer.

    The model outlives the block of inference mode. A mixture with inference tensors would run, and fail at the first
    backward pass.

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


def require_states_by_entry(optimizer: Optimizer, name: str, tensor: Tensor) -> None:
    """Require each state of ``tensor``, called ``name`` in errors, to have one number for each entry or for all."""
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            f"remask needs an optimizer with state for each entry of {name!r}. Got LBFGS, which has one "
            "history for all parameters. Pass optimizer=None, and create a new optimizer afterwards."
        )
    for key, value in optimizer.state.get(tensor, {}).items():
        by_entry = type(value) in (Tensor, nn.Parameter) and value.shape == tensor.shape
        if isinstance(value, Tensor) and value.numel() != 1 and not by_entry:
            raise ValueError(
                f"remask needs an optimizer with state for each of the {tensor.numel()} stored numbers of {name!r}, or "
                f"for all together. Got {type(value).__name__} {key!r} of shape {tuple(value.shape)} in "
                f"{type(optimizer).__name__}. Pass optimizer=None, and create a new optimizer "
                "afterwards."
            )


def moved_state(optimizer: Optimizer, tensor: Tensor, move: Move) -> dict[str, Any]:
    """The state of a tensor after a move, as new tensors. A single number, such as a step count, does not change."""
    state = optimizer.state.get(tensor, {})
    group = next((group for group in optimizer.param_groups if any(tensor is one for one in group["params"])), {})
    by_entry = {key for key, value in state.items() if isinstance(value, Tensor) and value.shape == tensor.shape}
    return {
        key: move.of(value, _fresh(optimizer, group, key, value.dtype)) if key in by_entry else value
        for key, value in state.items()
    }


def _fresh(optimizer: Optimizer, group: dict[str, Any], key: str, dtype: torch.dtype) -> float | complex:
    """The initial entries of a state: 0, except for Adagrad's sum and Rprop's step_size."""
    start: float = 0
    if isinstance(optimizer, Adagrad) and key == "sum":
        start = float(group["initial_accumulator_value"])
    elif isinstance(optimizer, Rprop) and key == "step_size":
        start = float(group["lr"])
    return complex(start, start) if dtype.is_complex else start
