"""The tensors of a model that match a key: a name, a pattern of names, or a class of layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NoReturn, TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from parametrizations._checks import kind_of
from parametrizations._models.constrained import Slot, constrained

Value = TypeVar("Value")
Key = str | type[nn.Module]
"""A name, a pattern of names, or a class of layers."""


def matches(key: Key, slots: Iterable[Slot]) -> list[Slot]:
    """The slots that a key matches.

    A name matches exactly, or by the wildcards of `fnmatch`. A class matches the ``weight`` of all its instances, but
    not vectors and scalars, such as the scale of a normalisation.
    """
    every = list(slots)
    if isinstance(key, type):
        weights = [slot for slot in every if any(isinstance(one, key) and n == "weight" for one, n in slot.holders)]
        return [slot for slot in weights if has_dims(slot, None)]
    exact = [slot for slot in every if key in slot.names]
    # A parameter's name may contain wildcard characters, so an exact match comes first.
    return exact or [slot for slot in every if any(fnmatchcase(name, key) for name in slot.names)]


def has_dims(slot: Slot, dims: int | None) -> bool:
    """Whether a tensor has this number of dimensions, or, for None, more than one.

    Constrained and uninitialised tensors are accepted, since other checks cover them.
    """
    if slot.parametrizations is not None or is_lazy(slot.first_stored):
        return True
    return slot.first_stored.dim() > 1 if dims is None else slot.first_stored.dim() == dims


def with_values(
    caller: str,
    slots: Sequence[Slot],
    rules: Mapping[Key, Value | None],
    no_match: Callable[[Key], NoReturn],
    advice: str,
) -> list[tuple[Slot, Value]]:
    """Pairs of a matching slot and the value of its key. Slots with the value None are left out.

    An exact name takes precedence over a pattern, and a pattern over a class. ``no_match`` raises the error for a key
    without a match. ``advice`` ends the error for two keys of the same kind that match one slot.
    """
    chosen: dict[Slot, tuple[int, Key]] = {}
    for key in rules:
        for slot in matches(key, slots) or no_match(key):
            rank = 2 if isinstance(key, type) else int(key not in slot.names)
            known, other = chosen.get(slot, (rank + 1, key))
            if known == rank and rules[other] != rules[key]:
                raise ValueError(
                    f"{caller} needs one rule for each tensor. Got two for {slot.name!r}: {shown(other)} and "
                    f"{shown(key)}. {advice}"
                )
            if rank < known:
                chosen[slot] = rank, key
    found = [(slot, rules[key]) for key in rules for slot, (_, own) in chosen.items() if own == key]
    return [(slot, value) for slot, value in found if value is not None]


def require_key(caller: str, key: object) -> None:
    """Require that a key of the rules is a string or a class of modules."""
    if not _is_key(key):
        raise TypeError(
            f"{caller} needs names, patterns of them, or classes of layers, as keys. Got {kind_of(key)}. Pass e.g. "
            '{"encoder.*.weight": ...} or {nn.Linear: ...}.'
        )


def _is_key(key: object) -> bool:
    return isinstance(key, str) or (isinstance(key, type) and issubclass(key, nn.Module))


def shown(key: Key) -> str:
    """A key as text for an error message, such as ``'encoder.*'`` or ``Linear``."""
    return key.__name__ if isinstance(key, type) else repr(key)


@contextmanager
def naming(caller: str, action: str) -> Iterator[None]:
    """Prefix TypeErrors and ValueErrors of the block with "<caller> cannot <action>."; add a note to other errors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        refusal = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"{caller} cannot {action}. {error}") from error
    except Exception as error:
        error.add_note(f"{caller} could not {action}; the model is as it was.")
        raise


def refuse_no_match(caller: str, wanted: str, key: Key, slots: Iterable[Slot]) -> NoReturn:
    """Raise the error for a key without a match, and suggest names."""
    every = list(slots)
    if isinstance(key, type):
        names = [slot.name for slot in every if isinstance(slot.module, key)]
        advice = "Pass a class of layers with one of their own, such as nn.Linear."
        if names:
            advice = f"Name its parameters, such as {names[0]!r}."
        got = "no matrix with the name 'weight' in its layers" if names else "none in modules of this class"
        raise ValueError(f"{caller} needs a {wanted} for {key.__name__}. Got {got}. {advice}")
    names = [name for slot in every for name in slot.names]
    close = get_close_matches(key, names, n=3, cutoff=0.3) or names[:3]
    got, advice = f"no match among {len(names)} names", f"Names that are close: {', '.join(map(repr, close))}"
    if any(name.startswith(f"{key}.") for name in names):
        close = [name for name in names if name.startswith(f"{key}.")][:3]
        got, advice = "the name of a module", f"Name its parameters: {', '.join(map(repr, close))}"
    elif key.rpartition(".")[2] in {type(slot.module).__name__.removeprefix("Parametrized") for slot in every}:
        advice = "Pass the class itself, such as nn.Linear, for every layer of the class"
    elif not names and wanted != "parameter":
        advice = "Constrain the model first, with register"
    elif not names:
        advice = "Register before quantizing. Plain tensors have to be nn.Parameter, and lists of layers nn.ModuleList"
    elif re.search(r"[\\^$|+(]|(?<!\w)\.\*", key):
        advice += ". Wildcards are those of a shell, such as '*.weight', not regular expressions"
    raise ValueError(f"{caller} needs a {wanted} for {key!r}. Got {got}. {advice}.")


def constrained_by(caller: str, model: nn.Module, patterns: object = None) -> list[Slot]:
    """The constrained tensors that match one of the patterns, in the order of the model; without patterns, all."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller} needs a model. Got {type(model).__name__}. Pass a torch.nn.Module.")
    every = constrained(model)
    if patterns is None:
        return every
    chosen: set[Slot] = set()
    for pattern in _listed(caller, patterns):
        chosen.update(matches(pattern, every) or refuse_no_match(caller, "constrained tensor", pattern, every))
    return [slot for slot in every if slot in chosen]


def _listed(caller: str, patterns: object) -> list[Key]:
    if isinstance(patterns, Mapping):  # the rules that register was given; None excludes
        patterns = [key for key, value in patterns.items() if value is not None]
    whole = isinstance(patterns, str | type) or not isinstance(patterns, Iterable)
    listed: list[Any] = [patterns] if whole else list(patterns)  # type: ignore[call-overload]
    if not listed:
        raise ValueError(f"{caller} needs one or more patterns. Got none. Pass None for every constrained tensor.")
    for key in listed:
        if not _is_key(key):
            raise TypeError(
                f"{caller} needs names, patterns of them, or classes of layers. Got {kind_of(key)}. "
                'Pass e.g. (model, "encoder.*"), or the dict of rules that you passed to register.'
            )
    return listed
