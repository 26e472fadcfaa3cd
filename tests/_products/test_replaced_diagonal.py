"""How much of the stored matrix is copied for another diagonal, and that the product is the dense one all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations import NegExpDiagonal
from parametrizations._products import replaced_diagonal
from parametrizations._products.replaced_diagonal import replaced_diagonal_linear, times
from parametrizations.neg_exp_diagonal import _diagonal


def test_a_matrix_that_is_the_weight_already_is_not_copied() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    weight = replaced_diagonal._whole(x, torch.ones(2))
    assert weight is x


def test_a_small_matrix_is_copied_whole_and_a_large_one_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(3, 2)
    monkeypatch.setattr(replaced_diagonal, "COPIED", x.numel())
    weight = replaced_diagonal._whole(x, torch.tensor([5.0, 6.0]))
    assert weight is not None
    assert weight.tolist() == [[5, 1], [1, 6], [1, 1]]
    assert x.tolist() == [[1, 1]] * 3
    monkeypatch.setattr(replaced_diagonal, "COPIED", x.numel() - 1)
    assert replaced_diagonal._whole(x, torch.zeros(2)) is None


def product(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return replaced_diagonal_linear(input, x, bias, _diagonal)


def dense(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return F.linear(input, NegExpDiagonal()(x), bias)


def leaves(*batch: int) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in ((*batch, 4), (5, 4), (5,))]


@pytest.mark.parametrize("copied", [0, 100])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 0), (1, 2, 3)])
def test_an_input_may_have_any_shape(batch: tuple[int, ...], copied: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced_diagonal, "COPIED", copied)
    values = leaves(*batch)
    torch.testing.assert_close(product(*values), dense(*values))


def squared(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda leaf: f(leaf).square().sum()


TRANSFORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "vmap": lambda f, leaf: torch.func.vmap(f)(torch.stack([leaf, leaf / 2])),
    "jvp": lambda f, leaf: torch.func.jvp(f, (leaf,), (leaf + 1,)),
    "grad": lambda f, leaf: torch.func.grad(squared(f))(leaf),
    "vmap of grad": lambda f, leaf: torch.func.vmap(torch.func.grad(squared(f)))(torch.stack([leaf, leaf / 2])),
    "jvp of grad": lambda f, leaf: torch.func.jvp(torch.func.grad(squared(f)), (leaf,), (leaf + 1,)),
}


@pytest.mark.parametrize("place", range(3), ids=["input", "x", "bias"])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transform_of_each_argument_alone_is_that_of_the_dense_product(
    transform: Callable[[Any, Tensor], Any], place: int
) -> None:
    values = leaves(3)

    def at(multiply: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda leaf: multiply(*values[:place], leaf, *values[place + 1 :])

    got, expected = (transform(at(multiply), values[place]) for multiply in (product, dense))
    torch.testing.assert_close(got, expected)


def test_an_infinite_gradient_does_not_reach_what_the_weight_does_not_depend_on() -> None:
    gradient, slope = torch.tensor([torch.inf, torch.inf, 2.0, 2.0]), torch.tensor([0.0, -1.0, 1.0, 3.0])
    assert times(gradient, slope).tolist() == [0, -torch.inf, 2, 6]
    assert times(gradient, None).tolist() == [0] * 4
