"""`plain_state_dict`: the checkpoint that the plain model would have."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from parametrizations._models.order import plain_order
from parametrizations._models.places import constrained_places, full_name, plain_modules
from parametrizations._models.sizes import require_room
from parametrizations._torch.chains import build, chains
from parametrizations._torch.private import give_versions
from parametrizations._torch.sharding import GATHER, is_sharded

__all__ = ["plain_state_dict"]


def plain_state_dict(model: nn.Module, state_dict: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The checkpoint of the baked model, in the plain model's order, without touching the model.

    Args:
        model: A model with parametrizations, of this library or others.
        state_dict: A constrained checkpoint of the model to convert instead of what the model holds, such as one
            gathered from sharded ranks; entries that it does not have, as on ranks that gathered none, are left out.

    Returns:
        Tensors without a graph; those that were not constrained are the checkpoint's own, as in ``state_dict()``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model is sharded and no gathered checkpoint is given, the checkpoint is not one of this
            model, or a dense weight is larger than the memory.

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
            "plain_state_dict needs a model, and a state dict or none. "
            f"Got {type(model).__name__} and {type(state_dict).__name__}. Pass (model, checkpoint)."
        )
    entries: Mapping[str, Any] = model.state_dict() if state_dict is None else state_dict
    _require_gathered(entries)
    modules = {full_name(name, ""): module for name, module in plain_modules(model) if chains(module)}
    require_room([(place.name, chain) for place, chain in constrained_places(model)], "plain_state_dict")
    states = _states(modules, entries)
    plain: dict[str, Any] = OrderedDict()
    for key in entries:
        prefixes = _prefixes(key)
        for prefix in prefixes:
            if prefix in modules:
                plain |= _own(modules.pop(prefix), prefix, entries, states)
        if states.keys().isdisjoint(prefixes):
            plain.setdefault(key, entries[key])
    _require_all_known(model, plain)
    return _with_versions(plain, getattr(entries, "_metadata", {}))


def _with_versions(plain: dict[str, Any], versions: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with the versions of the modules, which some need to load it."""
    kept = {name: version for name, version in versions.items() if ".parametrizations." not in f".{name}."}
    give_versions(plain, kept)
    return plain


def _prefixes(key: str) -> list[str]:
    """The names of the modules that an entry is in, each with a dot, outermost first."""
    return ["", *itertools.accumulate(f"{part}." for part in key.split(".")[:-1])]


def _states(modules: Mapping[str, nn.Module], entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The state of every chain in a checkpoint, by what its entries begin with."""
    states: dict[str, dict[str, Any]] = {
        f"{prefix}parametrizations.{name}.": {} for prefix, module in modules.items() for name in chains(module)
    }
    for key, value in entries.items():
        for inside in _prefixes(key):
            if inside in states:
                states[inside][key.removeprefix(inside)] = value
    return states


def _own(
    module: nn.Module, prefix: str, entries: Mapping[str, Any], states: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The entries of a module's own tensors, in the plain order."""
    found: dict[str, Any] = {}
    for name in plain_order(module):
        chain = chains(module).get(name)
        if chain is None:
            found |= {f"{prefix}{name}": entries[f"{prefix}{name}"]} if f"{prefix}{name}" in entries else {}
            continue
        if state := states[f"{prefix}parametrizations.{name}."]:
            found[f"{prefix}{name}"] = _weight(chain, state, f"{prefix}{name}")
    return found


def _weight(chain: Any, state: dict[str, Any], name: str) -> Tensor:
    try:
        return build(chain, state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"plain_state_dict needs a checkpoint of this model. Got one that does not fit at {name!r}: {error} "
            "Convert it with the model that it was saved from."
        ) from error


def _require_all_known(model: nn.Module, plain: Mapping[str, Any]) -> None:
    strange = {key for key in plain if ".parametrizations." in f".{key}"}
    strange -= model.state_dict().keys() if strange else set()
    if strange:
        raise ValueError(
            f"plain_state_dict needs a checkpoint of this model, with its constraints. Got {len(strange)} constrained "
            f"entries that it does not have, such as {min(strange)!r}. Register the same rules first, and strip what a "
            "wrapper puts before the names."
        )


def _require_gathered(entries: Mapping[str, Any]) -> None:
    sharded = [key for key, value in entries.items() if isinstance(value, Tensor) and is_sharded(value)]
    if sharded:
        raise ValueError(
            f"plain_state_dict needs whole tensors. Got {len(sharded)} that are sharded, such as {sharded[0]!r}. "
            f"{GATHER}, and pass the result."
        )
