"""The tensors of a model that a pattern matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NoReturn, TypeVar

from torch import nn

from parametrizations._models.constrained import Slot, constrained

__all__ = ["constrained_by", "matches", "naming", "refuse_no_match", "require_pattern", "with_values"]

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
    """The slots that the patterns match, with the value of the pattern. One slot must not match two patterns.

    ``no_match`` raises the error for a pattern without a match. ``advice`` ends the error for two matches.
    """
    patterns: dict[Slot, str] = {}
    found: list[tuple[Slot, Value]] = []
    for pattern, value in rules.items():
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


@contextmanager
def naming(caller: str, action: str) -> Iterator[None]:
    """Say in errors what the call was about to do."""
    try:
        yield
    except (TypeError, ValueError) as error:
        refusal = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"{caller} cannot {action}. {error}") from error
    except Exception as error:
        error.add_note(f"{caller} could not {action}; the model is as it was.")
        raise


def refuse_no_match(caller: str, wanted: str, pattern: str, slots: Iterable[Slot]) -> NoReturn:
    """Raise the error for a pattern without a match, and suggest names."""
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
