"""The tensors of a model that a pattern matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NoReturn, TypeVar

from torch import nn

from parametrizations._models.constrained import Slot, constrained

__all__ = ["constrained_by", "matches", "refuse_no_match", "require_pattern", "with_values"]

Value = TypeVar("Value")


def matches(pattern: str, slots: Iterable[Slot]) -> list[Slot]:
    """The slots with a matching name: the pattern itself, or a match by the wildcards of `fnmatch`."""
    every = list(slots)
    exact = [slot for slot in every if pattern in slot.names]
    # An exact name may contain wildcards, too.
    return exact or [slot for slot in every if any(fnmatchcase(name, pattern) for name in slot.names)]


def with_values(
    caller: str,
    slots: Sequence[Slot],
    rules: Mapping[str, Value],
    no_match: Callable[[str], NoReturn],
    advice: str,
) -> list[tuple[Slot, Value]]:
    """Each slot that a pattern matches, with the value of the pattern.

    Args:
        caller: The name of the call, for errors.
        slots: All slots that may match.
        rules: The values by pattern.
        no_match: Raises the error for a pattern without a match.
        advice: The last sentence of the error for a slot with two patterns.

    Raises:
        TypeError: If a key is not a name.
        ValueError: If a pattern matches nothing, or two patterns match one slot.
    """
    patterns: dict[Slot, str] = {}
    found: list[tuple[Slot, Value]] = []
    for pattern, value in rules.items():
        require_pattern(caller, pattern)
        for slot in matches(pattern, slots) or no_match(pattern):
            if slot in patterns:
                raise ValueError(
                    f"{caller} needs one rule for each tensor. Got two for {slot.name!r}: {patterns[slot]!r} and "
                    f"{pattern!r}. {advice}"
                )
            patterns[slot] = pattern
            found.append((slot, value))
    return found


def require_pattern(caller: str, pattern: object) -> None:
    """Check a key of the rules."""
    if not isinstance(pattern, str):
        raise TypeError(f"{caller} needs names, or patterns of them, as keys. Got {type(pattern).__name__}.")


def refuse_no_match(caller: str, wanted: str, pattern: str, slots: Iterable[Slot]) -> NoReturn:
    """Raise the error for a pattern without a match, with names that are close."""
    names = [name for slot in slots for name in slot.names]
    close = get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
    raise ValueError(
        f"{caller} needs a {wanted} for {pattern!r}. Got no match among {len(names)} names. "
        f"Names that are close: {', '.join(map(repr, close)) or 'none'}."
    )


def constrained_by(caller: str, model: nn.Module, patterns: object) -> list[Slot]:
    """The constrained tensors that match one of the patterns, in the order of the model; all of them for None."""
    every = constrained(model)
    if patterns is None:
        return every
    chosen: set[Slot] = set()
    for pattern in _listed(caller, patterns):
        chosen.update(matches(pattern, every) or refuse_no_match(caller, "constrained tensor", pattern, every))
    return [slot for slot in every if slot in chosen]


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
