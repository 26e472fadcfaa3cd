"""What laws demand, and how they say with figures that it does not hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "Broken",
    "Skipped",
    "most",
    "require",
    "require_close",
    "require_equal",
    "require_raises",
    "require_raises_runtime_error",
    "require_within",
]


class Broken(AssertionError):
    """A promise does not hold; the message has the figures."""


class Skipped(Exception):
    """A law that does not apply here; the message says why."""


def require(holds: bool, message: str) -> None:
    """Refuse with the message unless it holds."""
    if not holds:
        raise Broken(message)


def require_equal(got: Tensor, expected: Tensor, what: str) -> None:
    """Bit for bit equality, NaN included."""
    same = got.shape == expected.shape and bool(((got == expected) | (got.isnan() & expected.isnan())).all())
    require(same, f"{what} {difference(got, expected)}")


def require_close(got: Tensor, expected: Tensor, what: str) -> None:
    """Equality up to the rounding that `torch.testing.assert_close` grants the dtype.

    In half precision an entry may be off by the rounding of the largest: sums may round once or twice.
    """
    rtol = atol = None
    if expected.dtype in (torch.float16, torch.bfloat16) and expected.numel():
        rtol, atol = 0.0, 2 * torch.finfo(expected.dtype).eps * float(expected.detach().abs().max())
    try:
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise Broken(f"{what} {difference(got, expected)}") from error


def require_within(got: Tensor, expected: Tensor, bound: Tensor, what: str) -> None:
    """Equality up to a bound for each entry."""
    same = got.shape == expected.shape and got.dtype == expected.dtype
    near = same and bool(((got == expected) | ((got - expected).abs() <= bound)).all())  # infinity is infinity
    require(near, f"{what} {difference(got, expected)}")


def require_raises(action: Callable[[], object], what: str) -> None:
    """Demand a TypeError or a ValueError."""
    try:
        action()
    except (TypeError, ValueError):
        return
    except Exception as error:
        raise Broken(f"{what} gave a {type(error).__name__} instead of TypeError or ValueError.") from error
    raise Broken(f"{what} raised nothing.")


def require_raises_runtime_error(action: Callable[[], object], what: str) -> None:
    """Demand a RuntimeError, as `nn.Linear` raises for a wrong input."""
    try:
        action()
    except RuntimeError:
        return
    except Exception as error:
        raise Broken(f"{what} gave a {type(error).__name__} instead of a RuntimeError.") from error
    raise Broken(f"{what} raised nothing.")


def most(difference: Tensor) -> float:
    """The largest absolute value, 0 where there is none."""
    return float(difference.detach().abs().max()) if difference.numel() else 0.0


def difference(got: Tensor, expected: Tensor) -> str:
    if got.shape != expected.shape:
        return f"has shape {tuple(got.shape)} instead of {tuple(expected.shape)}."
    apart = int((got != expected).sum())
    return f"differs in {apart} of {got.numel()} entries, by at most {most(got - expected):.3g}."
