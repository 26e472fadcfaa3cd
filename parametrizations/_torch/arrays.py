"""Conversion of arrays of other libraries, such as NumPy, to tensors, without importing these libraries."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor


class Array(Protocol):
    """An array that supports NumPy's protocol."""

    def __array__(self, *arguments: Any, **named: Any) -> Any: ...


def is_array(values: object) -> TypeGuard[Array]:
    """Whether the object is an array, but not a tensor."""
    return hasattr(values, "__array__") and not isinstance(values, Tensor)


def from_array(values: Array) -> Tensor:
    """A CPU tensor with a copy of the values. PyTorch would share their memory, and refuses negative strides."""
    array = values.__array__()
    try:
        return torch.as_tensor(array.copy(), device="cpu")
    except TypeError as error:
        raise TypeError(
            f"An array needs numbers or truth values to become a tensor. Got dtype {array.dtype}. "
            "Convert it first, as .astype(bool) does."
        ) from error


def numbers(name: str, values: object, example: str) -> Tensor:
    """A new CPU tensor from a tensor, an array or an iterable. The error has the caller's ``name`` and ``example``."""
    try:
        if is_array(values):
            return from_array(values)
        listed = values if isinstance(values, Tensor) else list(values)  # type: ignore[call-overload]
        return torch.as_tensor(listed, device="cpu").clone()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} needs numbers. Got {type(values).__name__}: {error}. Pass e.g. {example}.") from error
