"""The assertions of the laws, the tests of `check_parametrization`. Each reports with figures how it fails."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Broken(AssertionError):
    """A parametrization breaks the promise that a law tests. The message has the figures."""


class Skipped(Exception):
    """A law, the test of a promise, does not apply to this parametrization or weight. The message has the reason."""


def require(holds: bool, message: str) -> None:
    """Raise `Broken` with the message unless the condition holds."""
    if not holds:
        raise Broken(message)


def require_equal(got: Tensor, expected: Tensor, what: str) -> None:
    """Require equal shapes and equal entries; NaN equals NaN, and -0.0 equals 0.0."""
    same = got.shape == expected.shape and bool(((got == expected) | (got.isnan() & expected.isnan())).all())
    require(same, f"{what} {_difference(got, expected)}")


def require_close(got: Tensor, expected: Tensor, what: str) -> None:
    """Require equality up to the rounding that `torch.testing.assert_close` allows for the dtype.

    In half precision an entry may be off by two roundings of the largest entry, since sums may round once or twice.
    """
    rtol = atol = None
    if expected.dtype in (torch.float16, torch.bfloat16) and expected.numel():
        rtol, atol = 0.0, 2 * torch.finfo(expected.dtype).eps * most(expected)
    try:
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise Broken(f"{what} {_difference(got, expected)}") from error


def require_within(got: Tensor, expected: Tensor, bound: Tensor, what: str) -> None:
    """Raise `Broken` unless each entry of ``got`` equals the expected one up to its own bound."""
    same = got.shape == expected.shape and got.dtype == expected.dtype
    near = same and bool(((got == expected) | ((got - expected).abs() <= bound)).all())  # equal infinities pass
    require(near, f"{what} {_difference(got, expected)}")


def require_raises(action: Callable[[], object], what: str, *kinds: type[Exception]) -> None:
    """Require that the action raises one of ``kinds`` (default TypeError or ValueError); messages call it ``what``."""
    kinds = kinds or (TypeError, ValueError)
    try:
        action()
    except kinds:
        return
    except Exception as error:
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise Broken(f"{what} gave a {type(error).__name__} instead of {expected}.") from error
    raise Broken(f"{what} raised nothing.")


def most(difference: Tensor) -> float:
    """The largest absolute value, or 0 for an empty tensor."""
    return float(difference.detach().abs().max()) if difference.numel() else 0.0


def _difference(got: Tensor, expected: Tensor) -> str:
    if got.shape != expected.shape:
        return f"has shape {tuple(got.shape)} instead of {tuple(expected.shape)}."
    if got.dtype != expected.dtype:
        return f"has dtype {got.dtype} instead of {expected.dtype}."
    apart = int((got != expected).sum())
    return f"differs in {apart} of {got.numel()} entries, by at most {most(got - expected):.3g}."
