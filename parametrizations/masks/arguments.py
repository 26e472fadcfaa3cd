"""Checks of the arguments of rules, and conversion of arrays of other libraries to tensors."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

Axes = tuple[int, int] | None
"""The axes of outputs and inputs, in this order; None if not given."""


class Array(Protocol):
    """An array that supports NumPy's protocol."""

    def __array__(self, *arguments: Any, **named: Any) -> Any: ...


class SparseArray(Protocol):
    """A sparse array of SciPy."""

    def tocoo(self) -> Any:
        """The same array in coordinate format."""
        ...


def home(weight: Tensor) -> torch.device:
    """The device for the mask of a weight: the same device, or the CPU for a weight on meta."""
    return torch.device("cpu") if weight.is_meta else weight.device


def integers(name: str, *values: object) -> list[int]:
    """Whole numbers from any library as a list of int. An error starts with ``name``."""
    whole = [int(value) for value in values if isinstance(value, Integral) and not isinstance(value, bool)]
    if len(whole) < len(values):
        got = ", ".join(type(value).__name__ for value in values)
        raise TypeError(f"{name} needs whole numbers. Got {got}. Pass one int for each argument.")
    return whole


def as_axes(name: str, axes: object) -> Axes:
    """The axes of outputs and inputs as two integers, or None."""
    if axes is None:
        return None
    if not isinstance(axes, tuple | list) or len(axes) != 2:
        raise TypeError(f"{name} needs two axes, (out, in). Got {axes!r}. Pass e.g. axes=(0, 1).")
    first, second = integers(name, *axes)
    return first, second


def check_density(name: str, density: object) -> float:
    """The density as a float; refused unless it is above 0 and at most 1."""
    value = _real(name, "density", density)
    if not 0 < value <= 1:
        raise ValueError(f"{name} needs a density above 0 and at most 1. Got {density}. 0.1 keeps a tenth.")
    return value


def count_of(density: float, entries: int) -> int:
    """The number of kept entries, of a weight or of several weights together: ``round(density * entries)``."""
    return round(density * entries)


def check_fraction(name: str, fraction: object) -> float:
    """The fraction as a float; refused unless it is from 0 to 1."""
    value = _real(name, "fraction", fraction)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} needs a fraction from 0 to 1. Got {fraction}. 0.3 is three tenths.")
    return value


def _real(name: str, argument: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        function = "a function. Call it, as in schedule(step)"
        got = function if callable(value) else f"{type(value).__name__}. Pass a float"
        raise TypeError(f"{name} needs a number for {argument}. Got {got}.")
    return float(value)


def require_generator(name: str, generator: object) -> None:
    """Refuse anything but a generator or None. The error starts with ``name``, of the rule."""
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            f"{name} needs a torch.Generator or None. Got {type(generator).__name__}. "
            "Seed one: torch.Generator().manual_seed(0)."
        )


def require_kept(name: str, count: int, kept: int) -> None:
    """Refuse to choose more entries than are kept. The error starts with ``name``, the name of the rule."""
    if count > kept:
        raise ValueError(
            f"{name} needs to choose {count} of the kept entries. Got only {kept}; other entries have no value. "
            "Lower the density, or give a rule that also adds entries, such as random."
        )


def require_values(name: str, weight: Tensor) -> None:
    """Refuse a weight on the meta device, with an error that starts with the ``name`` of the rule."""
    if weight.is_meta:
        raise ValueError(
            f"{name} needs the values of the weight. Got a weight on the meta device, which has none. Use "
            "a rule that looks at the shape alone, or materialise the weight first."
        )


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether a shape broadcasts to another one."""
    return len(shape) <= len(to) and all(one in (1, other) for one, other in zip(shape[::-1], to[::-1], strict=False))


def is_array(values: object) -> TypeGuard[Array]:
    """Whether the object has ``__array__``, as NumPy arrays have, and is not a tensor."""
    return hasattr(values, "__array__") and not isinstance(values, Tensor)


def from_array(values: Array) -> Tensor:
    """A CPU tensor with a copy of the values: `torch.as_tensor` would share memory, and refuses negative strides."""
    array = values.__array__()
    try:
        return torch.as_tensor(array.copy(), device="cpu")
    except TypeError as error:
        raise TypeError(
            f"An array needs numbers or truth values to become a tensor. Got dtype {array.dtype}. "
            "Convert it first, as .astype(bool) does."
        ) from error


def numbers(name: str, values: object, example: str) -> Tensor:
    """A new CPU tensor from a tensor, an array or an iterable. Errors show the caller's ``name``, and ``example``."""
    try:
        if is_array(values):
            return from_array(values)
        listed = values if isinstance(values, Tensor) else list(values)  # type: ignore[call-overload]
        return torch.as_tensor(listed, device="cpu").clone()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} needs numbers. Got {type(values).__name__}: {error}. Pass e.g. {example}.") from error
