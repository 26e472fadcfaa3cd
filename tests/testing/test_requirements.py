"""The requirements of laws: passing, failing, and the figures in their messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from parametrizations.testing.requirements import (
    Broken,
    most,
    require,
    require_close,
    require_equal,
    require_raises,
)

NAN = float("nan")


def raising(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_a_fulfilled_requirement_passes() -> None:
    require(True, "never said")
    with pytest.raises(Broken, match=r"^said$"):
        require(False, "said")


def test_equal_is_bit_for_bit_with_nan_and_of_the_same_shape() -> None:
    require_equal(torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0]), "It")
    for got in ([NAN, 2.0], [1.0, 1.0]):
        with pytest.raises(Broken, match=r"It differs in \d of 2 entries"):
            require_equal(torch.tensor(got), torch.tensor([NAN, 1.0]), "It")
    with pytest.raises(Broken, match=r"It has shape \(1,\) instead of \(2,\)"):
        require_equal(torch.ones(1), torch.ones(2), "It")


def test_the_figures_are_how_many_and_by_how_much() -> None:
    with pytest.raises(Broken, match=r"It differs in 2 of 3 entries, by at most 3\."):
        require_equal(torch.tensor([0.0, -3.0, 2.0]), torch.tensor([0.0, 0.0, 2.5]), "It")
    assert most(torch.empty(0)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_close_is_within_the_rounding_of_the_dtype(dtype: torch.dtype) -> None:
    expected, digit = torch.tensor([100.0, 50.0], dtype=dtype), 100 * torch.finfo(dtype).eps
    require_close(expected + torch.tensor([0, digit / 2]).to(dtype), expected, "It")
    require_close(expected[:0], expected[:0], "It")
    for wrong in (expected * 1.1, expected + torch.tensor([0.0, 5.0]).to(dtype), expected[:1]):
        with pytest.raises(Broken, match=r"It (differs in|has shape)"):
            require_close(wrong, expected, "It")


def test_in_half_precision_a_small_entry_may_be_off_by_the_rounding_of_the_largest() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        expected, digit = torch.tensor([64.0, 0.0], dtype=dtype), 64 * torch.finfo(dtype).eps
        require_close(torch.tensor([64.0, digit], dtype=dtype), expected, "It")
        with pytest.raises(Broken, match="It differs in 1 of 2 entries"):
            require_close(torch.tensor([64.0, 16 * digit], dtype=dtype), expected, "It")
    with pytest.raises(Broken, match="It differs in 1 of 2 entries"):
        require_close(torch.tensor([64.0, 1e-3]), torch.tensor([64.0, 0.0]), "It")


@pytest.mark.parametrize("error", [TypeError("no"), ValueError("no")])
def test_a_refusal_is_a_type_or_value_error(error: Exception) -> None:
    require_raises(raising(error), "It")
    with pytest.raises(Broken, match=f"It gave a {type(error).__name__} instead of RuntimeError"):
        require_raises(raising(error), "It", RuntimeError)


def test_a_refusal_of_inputs_is_a_runtime_error() -> None:
    require_raises(raising(RuntimeError("no")), "It", RuntimeError)
    with pytest.raises(Broken, match="It gave a RuntimeError instead of TypeError or ValueError"):
        require_raises(raising(RuntimeError("no")), "It")


@pytest.mark.parametrize("kinds", [[], [RuntimeError]])
def test_a_missing_refusal_breaks_the_law(kinds: list[type[Exception]]) -> None:
    with pytest.raises(Broken, match=r"It raised nothing\."):
        require_raises(lambda: None, "It", *kinds)
