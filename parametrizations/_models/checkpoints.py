"""Plain checkpoints of constrained models: `plain_state_dict`, and loading plain checkpoints."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from parametrizations._checks import require_finite
from parametrizations._models.changes import Changes
from parametrizations._models.constrained import REFERS, Slot, constrained, entries_of, full_name, plain_order, slots_of
from parametrizations._models.inverses import Unreachable
from parametrizations._models.sizes import require_present, require_room
from parametrizations._models.step_state import inverted_beside
from parametrizations._torch.chains import given, ties
from parametrizations._torch.parameters import GATHER, is_sharded, replace_data
from parametrizations._torch.private import give_versions
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.masks.pattern import Pattern

KINDS = "parametrizations"
"""A key in the metadata of a module in a checkpoint. The value maps tensor names to the classes of their
parametrizations, as text, with blocks and axes."""


def plain_state_dict(model: nn.Module, state_dict: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The checkpoint of the plain model, in the plain model's order.

    Tensors with constraints of this library, or parametrizations attached by `register`, become plain. Tensors with
    only other parametrizations, such as a ``weight_norm`` in the architecture, keep their stored form; both kinds on
    one tensor raise an error. For a checkpoint without any parametrization use ``bake(model).state_dict()``.

    Args:
        model: A model with parametrizations, of this library or third-party.
        state_dict: A constrained checkpoint to convert instead of the state of the model, such as one gathered from
            sharded ranks. Missing entries are left out, since after gathering only one rank has them.

    Returns:
        Tensors by name, without a graph. Unconstrained ones are not copied, as in ``state_dict()``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is sharded and no gathered checkpoint is given, if the checkpoint is not from this
            model, if the dense weights are larger than the memory, or if a constrained tensor has a third-party
            parametrization that `register` did not attach.

    Example:
        >>> from parametrizations import Diagonal, register
        >>> model = register(nn.Linear(2, 2), {"weight": Diagonal()})
        >>> plain = plain_state_dict(model)
        >>> nn.Linear(2, 2).load_state_dict(plain)
        <All keys matched successfully>
        >>> model.load_state_dict(plain)  # a plain checkpoint loads into the constrained model, too
        <All keys matched successfully>
    """
    if not isinstance(model, nn.Module) or not isinstance(state_dict, Mapping | None):
        raise TypeError(
            "plain_state_dict needs a model, and a state dict or None. "
            f"Got {type(model).__name__} and {type(state_dict).__name__}. Pass (model, checkpoint)."
        )
    entries: Mapping[str, Any] = model.state_dict() if state_dict is None else state_dict
    _require_gathered(entries)
    if state_dict is None:
        require_present(constrained(model), "plain_state_dict", model)
        return _plain(model, entries)
    _require_all_known(model, entries)
    _require_no_references(model)
    versions = getattr(entries, "_metadata", {})
    for slot in constrained(model):
        if given(slot.chain, entries, f"{slot.prefix}."):
            _require_kinds("plain_state_dict", slot, versions.get(slot.name.removesuffix(slot.tensor_name)[:-1], {}))
    plain = _plain(model, entries)
    _require_fitting(model, {key: value for key, value in plain.items() if entries.get(key) is value})
    return plain


def _plain(model: nn.Module, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The plain checkpoint for the entries of a constrained checkpoint."""
    ours = _ours(model)
    require_room(ours.values(), "plain_state_dict")
    known = {**entries, **_weights(ours, entries)}
    modules = {slot.name.removesuffix(slot.tensor_name): slot.module for slot in ours.values()}
    plain: dict[str, Any] = OrderedDict()
    for key, value in entries.items():
        prefixes = _prefixes(key)
        for prefix in [prefix for prefix in prefixes if prefix in modules]:
            names = [f"{prefix}{name}" for name in plain_order(modules.pop(prefix))]
            plain |= {name: known[name] for name in names if name in known}
        if ours.keys().isdisjoint(prefixes):
            plain.setdefault(key, value)
    give_versions(plain, _versions(plain, getattr(entries, "_metadata", {}), ours.keys()))
    return plain


def take_plain(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *arguments: Any
) -> None:
    """A load pre-hook: replace each plain weight in a state dict by its stored tensors, so that PyTorch can load them.

    A weight outside the set follows ``on_infeasible``. If it is refused, the tensor keeps its present values, and
    ``load_state_dict`` reports the error. Entries of a constrained checkpoint are not changed. If a state dict has a
    weight both plain and constrained, the constrained entries must equal those of the model, as after
    ``model.state_dict() | plain``. Then the plain weight is loaded; otherwise it is refused. The last of the
    ``arguments`` of a pre-hook is the list of error messages.
    """
    errors, assigned = arguments[-1], metadata.get("assign_to_params_buffers", False)
    for slot in slots_of(module, prefix):
        found, is_plain = given(slot.chain, state_dict, f"{slot.prefix}."), slot.name in state_dict
        weight = state_dict.pop(slot.name, None)
        try:
            if found or is_plain:
                require_present([slot], "load_state_dict")
            if found:
                _require_kinds("load_state_dict", slot, metadata)
            if not is_plain:
                continue
            _require_unchanged(slot, found)
            state = _constrained_state(slot, weight, assigned)
        except (TypeError, ValueError, RuntimeError) as error:
            form, advice = "plain " if is_plain else "", ""
            if is_plain and isinstance(slot.steps[0], MaskedSparse):
                advice = " To choose the mask from this checkpoint, load it into the plain model, then register."
            errors.append(f"While loading the {form}{slot.name!r}: {error}{advice} The tensor stays as it was.")
            state = slot.chain.state_dict()
        state_dict |= {f"{slot.prefix}.{key}": value for key, value in state.items()}


def note_kinds(module: nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Add the classes of the parametrizations of a module to the metadata of a checkpoint."""
    metadata = getattr(state_dict, "_metadata", {}).get(prefix[:-1])
    if metadata is not None:
        metadata[KINDS] = {slot.tensor_name: slot.kinds for slot in slots_of(module)}


def _require_kinds(caller: str, slot: Slot, metadata: Mapping[str, Any]) -> None:
    """Refuse a checkpoint with other parametrizations in its metadata: its values would give another weight here."""
    saved = metadata.get(KINDS, {}).get(slot.tensor_name, slot.kinds)
    if saved != slot.kinds:
        raise ValueError(
            f"{caller} needs a checkpoint of {slot.kinds} for {slot.name!r}. Got one of {saved}. Load plain_state_dict "
            "of its model, the model that saved it. If only a class or an entry has a new name, pass dict(checkpoint), "
            "which skips this check."
        )


def _require_unchanged(slot: Slot, found: Mapping[str, Any]) -> None:
    """If a checkpoint also has the plain weight, refuse constrained entries that differ from those of the model."""
    own = {f"{slot.prefix}.{key}": value for key, value in slot.chain.state_dict().items()}
    if any(key not in own or not _same(value, own[key]) for key, value in found.items()):
        raise ValueError(
            "load_state_dict needs one form of a weight. Got a plain one, and a constrained one that differs from the "
            f"model's. Remove the entry {slot.name!r}, or those that start with '{slot.prefix}.'."
        )


def _same(one: object, other: object) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return torch.equal(one, other) if both else bool(one == other)  # type: ignore[arg-type]


def _constrained_state(slot: Slot, weight: object, assigned: bool) -> dict[str, Any]:
    """The state dict of a chain for a plain weight. If ``assigned`` (``assign=True``), the weight keeps its dtype."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"A weight needs to be a tensor. Got {type(weight).__name__}.")
    if getattr(slot.chain, REFERS, False):
        raise ValueError(
            f"{slot.kinds} refers to other modules of the model, which may be loaded later. Load the constrained "
            "checkpoint."
        )
    if weight.layout is not torch.strided:
        entries = _same_entries(slot, weight)
        if entries is not None:
            return slot.chain.state_dict() | {"original": entries}
        require_room([slot], "load_state_dict", "Load the constrained checkpoint.")
        weight = weight.to_dense()
    if not assigned:
        weight = weight.to(slot.first_stored.dtype)
    changes = Changes()
    try:
        stored = inverted_beside(changes, slot, weight, project=False)
    except Unreachable as error:
        raise ValueError(f"{error} Load the constrained checkpoint.") from error
    changes.commit()
    return slot.chain.state_dict() | stored


def _same_entries(slot: Slot, weight: Tensor) -> Tensor | None:
    """The stored tensor for a sparse weight in the set with the entries of the mask; otherwise None."""
    first, *others = slot.steps
    pattern = Pattern.of(weight)  # first: it checks the indices of a sparse weight; PyTorch's to_dense does not
    if not isinstance(first, MaskedSparse) or pattern.shape != slot.shape:
        return None
    if not torch.equal(pattern.positions, first.positions.to(weight.device, torch.long)):
        return None
    values: Tensor = weight.to_sparse_coo().coalesce().values()  # type: ignore[no-untyped-call]
    require_finite("MaskedSparse", values)
    stored = slot.inverted_entries(values)
    if stored is None or not others:
        return stored
    twin = slot.copied()
    replace_data(twin.first_stored, stored)
    with torch.no_grad():
        entries = entries_of(twin.chain)  # they differ if the other constraints do not allow the values
    return stored if entries is not None and torch.allclose(entries, values, rtol=1e-4, atol=0) else None


def _versions(plain: Mapping[str, Any], versions: Mapping[str, Any], ours: Set[str]) -> dict[str, Any]:
    """The module versions for ``plain``, from those of the constrained checkpoint; some modules need them to load."""
    holders = {prefix.rsplit(".", 2)[0] for prefix in ours}
    gone = {holder for holder in holders if not any(key.startswith(f"{holder}.") for key in plain)}
    return {
        name: {key: value for key, value in version.items() if key != KINDS}
        for name, version in versions.items()
        if name not in gone and ours.isdisjoint(_prefixes(f"{name}.."))
    }


def _prefixes(key: str) -> list[str]:
    """The names of the modules around an entry, outermost first: '', 'a.' and 'a.b.' for 'a.b.weight'."""
    return ["", *itertools.accumulate(f"{part}." for part in key.split(".")[:-1])]


def _ours(model: nn.Module) -> dict[str, Slot]:
    """The slots that become plain, by key prefix, such as ``0.parametrizations.weight.``; one prefix for each name."""
    found: dict[str, Slot] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = full_name(name, "")
        if not found.keys().isdisjoint(_prefixes(prefix)):  # a part of a parametrization found before
            continue
        for slot in [slot for slot in slots_of(module, prefix) if slot.is_ours]:
            found[f"{slot.prefix}."] = slot
            if slot.foreign:
                raise ValueError(
                    "plain_state_dict needs third-party parametrizations and constraints on different tensors. Got "
                    f"{slot.kinds} for {slot.name!r}. Use bake(model).state_dict(), with plain tensors only."
                )
    return found


def _weights(ours: Mapping[str, Slot], entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """The dense weights for a constrained checkpoint, by name. Tied weights are one tensor."""
    states: dict[str, dict[str, Any]] = {prefix: {} for prefix in ours}
    for key, value in entries.items():
        for prefix in states.keys() & _prefixes(key):
            states[prefix][key.removeprefix(prefix)] = value
    found: dict[nn.Module, Tensor] = {}
    weights = {}
    for prefix, state in states.items():
        slot, first = ours[prefix], ties(ours[prefix].chain)[0]
        if state:
            weights[slot.name] = found[first] = found[first] if first in found else _weight(slot, state)
    return weights


def _weight(slot: Slot, state: dict[str, Any]) -> Tensor:
    try:
        return slot.materialised(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"plain_state_dict needs a checkpoint of this model. Got one that does not fit at {slot.name!r}: {error} "
            "Convert it with the model that saved it."
        ) from error


def _require_no_references(model: nn.Module) -> None:
    for slot in constrained(model):
        if getattr(slot.chain, REFERS, False):
            raise ValueError(
                f"plain_state_dict needs to compute each weight from its own checkpoint entries. Got {slot.name!r} "
                f"with {slot.kinds}, which refers to other modules. Load the checkpoint into the model first, and call "
                "plain_state_dict(model)."
            )


def _require_all_known(model: nn.Module, entries: Mapping[str, Any]) -> None:
    strange = {key for key in entries if ".parametrizations." in f".{key}"} - model.state_dict().keys()
    if strange:
        raise ValueError(
            f"plain_state_dict needs a checkpoint of this model, with its constraints. Got {len(strange)} unknown "
            f"constrained entries, such as {min(strange)!r}. Register the same rules first. If these names "
            "lack the prefix of a wrapper, such as 'module.', pass wrapper.module; if only they have it, strip it."
        )


def _require_fitting(model: nn.Module, passed_on: Mapping[str, Any]) -> None:
    """Require that the plain model, the same model without constraints, can load the unconstrained entries.

    Entries other than tensors are allowed where the model saves such an object, as extra state or in quantized modules.
    Buffers may have another shape, which observers accept. Parameters have a fixed shape.
    """
    own, parameters = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    for key, value in passed_on.items():
        if not isinstance(value, Tensor) and (key not in own or isinstance(own[key], Tensor)):
            raise ValueError(
                f"plain_state_dict needs a checkpoint of this model. Got {type(value).__name__} for {key!r}. "
                "Pass the state dict alone, without other saved objects, such as the optimizer's state."
            )
        if key in parameters and not is_lazy(own[key]) and value.shape != own[key].shape:
            raise ValueError(
                f"plain_state_dict needs a checkpoint of this model. Got shape {tuple(value.shape)} for {key!r}, which "
                f"has {tuple(own[key].shape)} here. Convert it with the model that saved it."
            )


def _require_gathered(entries: Mapping[str, Any]) -> None:
    sharded = [key for key, value in entries.items() if isinstance(value, Tensor) and is_sharded(value)]
    if sharded:
        raise ValueError(
            f"plain_state_dict needs whole tensors. Got {len(sharded)} sharded ones, such as {sharded[0]!r}. "
            f"{GATHER}, and pass the result."
        )
