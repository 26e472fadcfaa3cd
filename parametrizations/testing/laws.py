"""All the laws: each a function that raises where a parametrization breaks a promise.

A law is any public function of a theme. It is shown a `Subject`, raises `Broken` with figures or any error of the
code that it calls, and raises `Skipped` where it does not apply.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType

from parametrizations.testing import (
    checkpoints,
    gradients,
    products,
    registering,
    rest_of_pytorch,
    stored_values,
    training,
)
from parametrizations.testing.subject import Subject

__all__ = ["LAWS", "THEMES", "Law"]

Law = Callable[[Subject], None]
THEMES = (stored_values, registering, gradients, training, products, checkpoints, rest_of_pytorch)


def _laws_of(theme: ModuleType) -> Iterator[tuple[str, Law]]:
    for name, function in vars(theme).items():
        if inspect.isfunction(function) and function.__module__ == theme.__name__ and not name.startswith("_"):
            yield name, function


LAWS: dict[str, Law] = {name: law for theme in THEMES for name, law in _laws_of(theme)}
