"""`plain_state_dict`: the checkpoint that the plain model would have."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Set
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._models.order import plain_order
from parametrizations._models.ownership import foreign_steps, is_constrained_by_us
from parametrizations._models.sizes import require_room
from parametrizations._models.weights import inverted
from parametrizations._torch.chains import build, chains, loaded
from parametrizations._torch.private import children, give_versions
from parametrizations._torch.sharding import GATHER, is_sharded

__all__ = ["plain_state_dict"]


def plain_state_dict(model: nn.Module, state_dict: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The checkpoint of the model as it was before this library, in its order, without touching the model.

    What is constrained turns plain; what the model had before, such as a ``weight_norm`` in its architecture, stays as
    it is stored. Where both are on one tensor, the checkpoint has what the other would store to give the weight: it
    loads into the model as it was, while here it has the names of a constrained one and is taken for that. For a
    checkpoint without either, take ``bake(model).state_dict()``.

    Args:
        model: A model with parametrizations, of this library or others.
        state_dict: A constrained checkpoint to convert instead of what the model holds, such as one gathered from
            sharded ranks. Entries that it lacks are left out, since after gathering only one rank has them.

    Returns:
        Tensors without a graph; those that were not constrained are the checkpoint's own, as in ``state_dict()``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model is sharded and no gathered checkpoint is given, the checkpoint is not one of this
            model, a dense weight is larger than the memory, or a parametrization that the model had before cannot give
            the weight.

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
    if state_dict is not None:
        _require_all_known(model, entries)
    modules = _constrained(model)
    ours = _chains(modules)
    require_room(ours.values(), "plain_state_dict")
    states = _states(ours, entries)
    plain: dict[str, Any] = OrderedDict()
    for key in entries:
        prefixes = _prefixes(key)
        for prefix in prefixes:
            if prefix in modules:
                plain |= _own(modules.pop(prefix), prefix, entries, states)
            if prefix in ours:
                plain |= _without_ours(*ours.pop(prefix), prefix, states[prefix])
        if states.keys().isdisjoint(prefixes):
            plain.setdefault(key, entries[key])
    if state_dict is not None:
        _require_fitting(model, {key: value for key, value in plain.items() if entries.get(key) is value})
    return _with_versions(plain, getattr(entries, "_metadata", {}), states.keys())


def _constrained(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The modules with a tensor that this library constrains, by what their entries begin with."""
    own = chains(model)
    found = {prefix: model} if any(map(is_constrained_by_us, own.values())) else {}
    for name, child in children(model).items():
        if child is not None and not (own and name == "parametrizations"):
            found |= _constrained(child, f"{prefix}{name}.")
    for name, chain in own.items():
        if not is_constrained_by_us(chain):  # it may refer to a module that is
            found |= _constrained(chain, f"{prefix}parametrizations.{name}.")
    return found


def _chains(modules: Mapping[str, nn.Module]) -> dict[str, tuple[str, ParametrizationList]]:
    """What this library constrains, and its plain name, by what its entries begin with."""
    return {
        f"{prefix}parametrizations.{name}.": (f"{prefix}{name}", chain)
        for prefix, module in modules.items()
        for name, chain in chains(module).items()
        if is_constrained_by_us(chain)
    }


def _with_versions(plain: dict[str, Any], versions: Mapping[str, Any], ours: Set[str]) -> dict[str, Any]:
    """The state dict with the versions of the modules that it has, which some need to load it."""
    holders = {inside.rsplit(".", 2)[0] for inside in ours}
    gone = {holder for holder in holders if not any(key.startswith(f"{holder}.") for key in plain)}
    kept = {
        name: version
        for name, version in versions.items()
        if name not in gone and ours.isdisjoint(_prefixes(f"{name}.."))
    }
    give_versions(plain, kept)
    return plain


def _prefixes(key: str) -> list[str]:
    """The names of the modules that an entry is in, each with a dot, outermost first."""
    return ["", *itertools.accumulate(f"{part}." for part in key.split(".")[:-1])]


def _states(ours: Iterable[str], entries: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The state of every chain in a checkpoint, by what its entries begin with."""
    states: dict[str, dict[str, Any]] = {inside: {} for inside in ours}
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
        chain, key = chains(module).get(name), f"{prefix}{name}"
        if chain is None:
            found |= {key: entries[key]} if key in entries else {}
        elif not foreign_steps(chain) and (state := states[f"{prefix}parametrizations.{name}."]):
            found[key] = _weight(chain, state, key)
    return found


def _without_ours(name: str, chain: ParametrizationList, inside: str, state: dict[str, Any]) -> dict[str, Any]:
    """The entries of what the model had before on a tensor that is constrained, if anything."""
    if not foreign_steps(chain):
        return {}
    weight, twin = _weight(chain, state, name), loaded(chain, state)
    foreign = foreign_steps(twin)
    try:
        stored = inverted(foreign, weight, project=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"plain_state_dict needs what the model stored at {name!r} before it was constrained. {error} "
            "Take bake(model).state_dict(), which has neither."
        ) from error
    named = {"original": stored} if isinstance(stored, Tensor) else {f"original{i}": x for i, x in enumerate(stored)}
    found = {f"{inside}{key}": tensor.detach().contiguous() for key, tensor in named.items()}
    for place, step in enumerate(foreign):
        found |= step.state_dict(prefix=f"{inside}{place}.")
    return found


def _weight(chain: ParametrizationList, state: dict[str, Any], name: str) -> Tensor:
    try:
        return build(chain, state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"plain_state_dict needs a checkpoint of this model. Got one that does not fit at {name!r}: {error} "
            "Convert it with the model that it was saved from."
        ) from error


def _require_all_known(model: nn.Module, entries: Mapping[str, Any]) -> None:
    strange = {key for key in entries if ".parametrizations." in f".{key}"} - model.state_dict().keys()
    if strange:
        raise ValueError(
            f"plain_state_dict needs a checkpoint of this model, with its constraints. Got {len(strange)} constrained "
            f"entries that it does not have, such as {min(strange)!r}. Register the same rules first; where a wrapper "
            "puts something before the names, pass the model inside it, or strip that."
        )


def _require_fitting(model: nn.Module, passed_on: Mapping[str, Any]) -> None:
    """Refuse what the plain model could not load of the entries that stay as they are.

    Entries that are no tensors belong to modules that save such: as extra state, or as quantized ones do. Modules may
    load a buffer of another shape, such as an observer's; a parameter has its own.
    """
    own, parameters = model.state_dict(), dict(model.named_parameters(remove_duplicate=False))
    for key, value in passed_on.items():
        if not isinstance(value, Tensor) and (key not in own or isinstance(own[key], Tensor)):
            raise ValueError(
                f"plain_state_dict needs a checkpoint of this model. Got {type(value).__name__} for {key!r}, where a "
                "tensor belongs. Pass the state dict alone, without what was saved beside it."
            )
        if key in parameters and not is_lazy(own[key]) and value.shape != own[key].shape:
            raise ValueError(
                f"plain_state_dict needs a checkpoint of this model. Got shape {tuple(value.shape)} for {key!r}, which "
                f"has {tuple(own[key].shape)}. Convert it with the model that it was saved from."
            )


def _require_gathered(entries: Mapping[str, Any]) -> None:
    sharded = [key for key, value in entries.items() if isinstance(value, Tensor) and is_sharded(value)]
    if sharded:
        raise ValueError(
            f"plain_state_dict needs whole tensors. Got {len(sharded)} that are sharded, such as {sharded[0]!r}. "
            f"{GATHER}, and pass the result."
        )
