"""The options that an object was made with, or that a class still needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

__all__ = ["kind_of", "options_of"]


def options_of(made: object) -> dict[str, object]:
    """What an object keeps of the arguments of its ``__init__``, under their own names."""
    found = {name: getattr(made, name) for name in _option_names(type(made)) if hasattr(made, name)}
    return {name: value for name, value in found.items() if not inspect.ismethod(value)}


def kind_of(value: object) -> str:
    """What a value is, for an error: a class in place of an object of it is told how to become one."""
    if not isinstance(value, type):
        return type(value).__name__
    _, *parameters = inspect.signature(value.__init__).parameters.values()  # type: ignore[misc]
    needed = any(p.default is p.empty and p.kind < p.VAR_POSITIONAL for p in parameters)
    return f"the class {value.__name__}: write {value.__name__}({'...' if needed else ''})"


def _option_names(kind: type) -> Iterator[str]:
    """The names of a class's options, its bases' among them as far as it passes on what it does not name."""
    for base in kind.__mro__:
        if "__init__" in vars(base):
            _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            passed_on = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            yield from (p.name for p in parameters if p not in passed_on)
            if not passed_on:
                return
