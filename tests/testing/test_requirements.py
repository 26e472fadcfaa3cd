"""What laws demand: where it holds, where it does not, and the figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from parametrizations.testing.requirements import (
    Broken,
    most,
    require,
    require_equal,
    require_raises,
    require_raises_runtime_error,
)

NAN = float("nan")


def raising(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_what_holds_is_not_refused() -> None:
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
        require_equal(torch.tensor([0.0, -3.0, 2.0]), torch.tensor([0.0, 0.0, 1.0]), "It")
    assert most(torch.empty(0)) == 0


@pytest.mark.parametrize("error", [TypeError("no"), ValueError("no")])
def test_a_refusal_is_a_type_or_value_error(error: Exception) -> None:
    require_raises(raising(error), "It")
    with pytest.raises(Broken, match=f"It gave a {type(error).__name__} instead of a RuntimeError"):
        require_raises_runtime_error(raising(error), "It")


def test_a_refusal_of_inputs_is_a_runtime_error() -> None:
    require_raises_runtime_error(raising(RuntimeError("no")), "It")
    with pytest.raises(Broken, match="It gave a RuntimeError instead of TypeError or ValueError"):
        require_raises(raising(RuntimeError("no")), "It")


@pytest.mark.parametrize("demand", [require_raises, require_raises_runtime_error])
def test_no_refusal_is_broken(demand: Callable[[Callable[[], None], str], None]) -> None:
    with pytest.raises(Broken, match=r"It raised nothing\."):
        demand(lambda: None, "It")
