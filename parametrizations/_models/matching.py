"""Which tensors of a model a pattern names."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NoReturn

from torch import nn

from parametrizations._models.places import Place, parameter_places

__all__ = ["Key", "Names", "matches", "named_places", "refuse_no_match"]

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
