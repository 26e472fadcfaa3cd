"""Which tensors of a model a pattern names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NoReturn

from torch import nn

from parametrizations._models.places import Place, constrained_places, parameter_places
from parametrizations._torch.chains import chains

__all__ = ["Key", "Names", "constrained_by", "matches", "named_places", "refuse_no_match"]

Key = tuple[nn.Module, str]
"""A tensor of a module, however many names the module has."""

Names = dict[Key, list[Place]]


def named_places(model: nn.Module) -> Names:
    """Every place once, under all the names that its module has."""
    found: Names = {}
    for place in parameter_places(model):
        found.setdefault((place.module, place.tensor_name), []).append(place)
    return found


def matches(pattern: str, names: Names) -> list[Key]:
    """The places that have a name that matches: by the wildcards of `fnmatch`, or as it is."""
    exact = [key for key, places in names.items() if any(place.name == pattern for place in places)]
    if exact:  # also a name that has wildcards in it
        return exact
    return [key for key, places in names.items() if any(fnmatchcase(place.name, pattern) for place in places)]


def refuse_no_match(caller: str, wanted: str, pattern: str, names: Names) -> NoReturn:
    """Say that a pattern matches nothing, and which names are close."""
    every = [place.name for places in names.values() for place in places]
    close = get_close_matches(pattern, every, n=3, cutoff=0.3) or every[:3]
    raise ValueError(
        f"{caller} needs a {wanted} for {pattern!r}. Got no match among {len(every)} names. "
        f"Names that are close: {', '.join(map(repr, close)) or 'none'}."
    )


def constrained_by(caller: str, model: nn.Module, patterns: object) -> list[Place]:
    """Every constrained place whose name matches one of the patterns, in the model's order; all of them for None."""
    every = [place for place, _ in constrained_places(model)]
    if patterns is None:
        return every
    names = {(module, name): places for (module, name), places in named_places(model).items() if name in chains(module)}
    keys: set[Key] = set()
    for pattern in _listed(caller, patterns):
        keys |= set(matches(pattern, names) or refuse_no_match(caller, "constrained tensor", pattern, names))
    return [place for place in every if (place.module, place.tensor_name) in keys]


def _listed(caller: str, patterns: object) -> list[str]:
    listed = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    wrong = [type(pattern).__name__ for pattern in listed if not isinstance(pattern, str)]
    if not listed:
        raise ValueError(f"{caller} needs a pattern of names. Got none. Pass None for every constrained tensor.")
    if wrong:
        raise TypeError(
            f"{caller} needs names, or patterns of them. Got {wrong[0]}. "
            'Pass e.g. (model, "encoder.*"), or the rules that register was given.'
        )
    return [pattern for pattern in listed if isinstance(pattern, str)]
