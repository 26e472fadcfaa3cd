"""Which parameters `register` can constrain: checks before anything is built."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from parametrizations._models.constrained import Slot, full_name, identity
from parametrizations._models.matching import shown
from parametrizations._models.sizes import require_present
from parametrizations._torch.chains import chains
from parametrizations._torch.parameters import is_sharded
from parametrizations._torch.private import buffers, children, own_attributes, parameters
from parametrizations._torch.shared_class import can_share

UNTIE = "To untie them, write layer.weight = nn.Parameter(layer.weight.detach().clone()) for one of the layers."

DEPTH = 2
"""The depth to which nested containers in an attribute are searched for tensors: 2 includes a list in a dictionary."""


def require_eligible(
    model: nn.Module, plan: Sequence[tuple[Slot, Sequence[nn.Module]]], tied: Mapping[object, Sequence[str]]
) -> list[tuple[Slot, Sequence[nn.Module]]]:
    """Refuse parameters that cannot be constrained, or that their module could not use once constrained.

    Returns:
        The pairs of ``plan``, with one slot for all owners of a tied parameter.
    """
    slots, together = [slot for slot, _ in plan], _tied_together(plan, tied)
    require_present(slots, "register", model)
    for slot, steps in plan:
        _require_initialised(slot)
        _require_plain_class(slot)
        _require_computed_tensors_work(slot)
        _require_no_cycle(slot, steps)
    new = [part for _, steps in plan for step in steps for part in step.named_modules(prefix=type(step).__name__)]
    _require_held_once([*model.named_modules(), *new], slots)
    _warn_of_hidden_layers(model)
    return together


def require_unpruned(model: nn.Module, key: str | type[nn.Module]) -> None:
    """Refuse a key for a pruned tensor, since it would match another parameter, or none."""
    parameters = dict(model.named_parameters())
    for name in [name.removesuffix("_mask") for name, _ in model.named_buffers() if name.endswith("_mask")]:
        layer, _, tensor_name = name.rpartition(".")
        of_class = isinstance(key, type) and tensor_name == "weight" and isinstance(model.get_submodule(layer), key)
        if (of_class or (isinstance(key, str) and fnmatchcase(name, key))) and f"{name}_orig" in parameters:
            raise ValueError(
                f"register needs a parameter for {shown(key)}. Got a tensor computed by torch.nn.utils.prune. Make "
                f"it a parameter again first: prune.remove(model.get_submodule({layer!r}), {tensor_name!r}), "
                "where model is the one passed here. To constrain the unpruned parameter instead, use its name, which "
                "ends with _orig."
            )


def _tied_together(
    plan: Sequence[tuple[Slot, Sequence[nn.Module]]], tied: Mapping[object, Sequence[str]]
) -> list[tuple[Slot, Sequence[nn.Module]]]:
    """The plan's pairs of `Slot` and parametrizations, with one slot for all owners of a tied parameter."""
    found: dict[object, tuple[Slot, Sequence[nn.Module]]] = {}
    for slot, steps in plan:
        key = next((key for key in map(identity, slot.stored.values()) if key in tied), slot)
        first, own = found.setdefault(key, (slot, steps))
        if first is slot:
            continue
        same = slot.parametrizations is None and slot.first_stored is first.first_stored and slot.axes == first.axes
        if not same or [*map(id, own)] != [*map(id, steps)]:
            raise ValueError(
                f"register needs one parameter and one constraint for tied weights. Got two parameters or two "
                f"constraints for {first.name!r} and {slot.name!r}. Pass one object under both keys, or under one "
                f"pattern. {UNTIE}"
            )
        found[key] = replace(first, names=[*first.names, *slot.names], others=[*first.others, *slot.holders]), own
    for key, (slot, _) in found.items():
        missing = [name for name in tied.get(key, ()) if name not in slot.names]
        if missing:
            raise ValueError(
                f"register needs all owners of a tied parameter. Got {slot.name!r} without {missing[0]!r}. Give both "
                f"the same constraint, or exclude it: {{{slot.name!r}: None}}. {UNTIE}"
            )
    return list(found.values())


def _require_initialised(slot: Slot) -> None:
    for tensor in slot.stored.values():
        if is_lazy(tensor) or is_sharded(tensor):
            raise ValueError(
                f"register needs an initialised, unsharded tensor at {slot.name!r}. "
                f"Got a {type(tensor).__name__}. Run a batch through a lazy model first; register before "
                "fully_shard."
            )


def _require_plain_class(slot: Slot) -> None:
    kind = type(slot.module).__name__
    if isinstance(slot.module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise ValueError(
            f"register needs a module other than a container for {slot.name!r}. Got {kind}, where the "
            "parametrizations would be one more child. Move the parameter to another module."
        )
    if isinstance(slot.module, torch.jit.ScriptModule):
        raise ValueError(
            f"register needs a Python module for {slot.name!r}. Got a scripted or traced one. Register first, and "
            "script or trace a baked copy."
        )
    if children(slot.module).get("parametrizations") is not None and not chains(slot.module):
        raise ValueError(
            f"register needs a module without a child named 'parametrizations' for {slot.name!r}. Got {kind}. "
            "PyTorch keeps its own list under this name: rename the child."
        )
    if not can_share(slot.module):
        raise ValueError(
            f"register needs the parametrized module of {slot.name!r} to have the class from register_parametrization. "
            f"Got {kind}. Register everything before fully_shard and other functions that change the class."
        )


def _require_computed_tensors_work(slot: Slot) -> None:
    """Refuse modules of PyTorch that cannot use a computed tensor, since they write into it or lose its gradient."""
    module, kind = slot.module, type(slot.module).__name__
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        raise ValueError(
            f"register needs a module that uses its parameters itself for {slot.name!r}. Got {kind}: its slices and "
            "copies turn computed tensors into new parameters, without gradients. Give each parameter a module of its "
            "own, in an nn.ModuleList or nn.ModuleDict."
        )
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and slot.tensor_name == "weight":
        if module.max_norm is not None:
            raise ValueError(
                f"register needs an embedding that only reads {slot.name!r}. Got {kind} with max_norm, which writes "
                "normalised rows into the weight. Set max_norm=None, and divide rows by their norm in a later "
                "parametrization."
            )
        if module.sparse:
            raise ValueError(
                f"register needs an embedding with dense gradients for {slot.name!r}. Got {kind} with sparse=True; no "
                "parametrization takes sparse gradients. Set sparse=False."
            )


def _require_no_cycle(slot: Slot, steps: Sequence[nn.Module]) -> None:
    for step in steps:
        if any(part is slot.module for part in step.modules()):
            raise ValueError(
                f"register needs a parametrization that does not contain the module of {slot.name!r}. Got "
                f"{type(step).__name__}, with {type(slot.module).__name__} as a child. Keep the reference in a list."
            )


def _require_held_once(parts: Sequence[tuple[str, nn.Module]], slots: Sequence[Slot]) -> None:
    """Refuse plain parameters that a further attribute, of a module or of a parametrization, also holds.

    Registering changes the attribute of the owner alone. Code that reads the other attribute would use the stored
    tensor without the constraint. Parameters, buffers and other attributes are searched, with the dictionaries, lists,
    tuples and sets in them. Optimizers, closures and other objects are not searched.
    """
    wanted = {id(slot.first_stored): slot for slot in slots if slot.parametrizations is None}
    owners = {(id(slot.module), slot.tensor_name) for slot in slots}
    for prefix, module in parts:
        for name, value in (*parameters(module).items(), *buffers(module).items(), *own_attributes(module).items()):
            for tensor in _tensors(value, DEPTH):
                slot = wanted.get(id(tensor))
                if slot is not None and not (value is tensor and (id(module), name) in owners):
                    raise ValueError(
                        f"register needs a parameter that only its owner holds, for {slot.name!r}. Got one that "
                        f"{full_name(prefix, name)!r} of {type(module).__name__} refers to, too. Read the parameter "
                        "from its owner instead, or register before the other reference is made, and before "
                        "DistributedDataParallel wraps the model."
                    )


def _warn_of_hidden_layers(model: nn.Module) -> None:
    """Warn of each plain list or dictionary with two or more layers.

    A list or dictionary with a single layer is not reported: this layer is usually hidden on purpose.
    """
    known = set(model.modules())
    for prefix, module in model.named_modules():
        for name, value in own_attributes(module).items():
            held = list(dict.values(value)) if isinstance(value, dict) else value if isinstance(value, list) else []
            if len(held) > 1 and all(isinstance(one, nn.Module) and one not in known for one in held):
                text = (
                    f"register does not reach the {len(held)} layers in {full_name(prefix, name)!r}, a plain "
                    f"{type(value).__name__}, and neither does an optimizer. Hold them in nn.Module"
                    f"{'Dict' if isinstance(value, dict) else 'List'}."
                )
                warnings.warn(text, stacklevel=2)


def _tensors(value: object, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set | frozenset | deque):
        for part in dict.values(value) if isinstance(value, dict) else list(value):
            yield from _tensors(part, depth - 1)
