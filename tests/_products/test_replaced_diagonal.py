"""The product with a replaced diagonal copies only diagonal blocks of the stored matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations import NegExpDiagonal, Parametrization, ZeroDiagonal
from tests.operations import operations
from tests.thresholds import lower

SHAPES = [(7, 7), (9, 5), (5, 9), (4, 1), (1, 4)]
KINDS: dict[str, Callable[[], Parametrization]] = {
    "ZeroDiagonal": lambda: ZeroDiagonal(product="replaced-diagonal"),
    "NegExpDiagonal": lambda: NegExpDiagonal(product="replaced-diagonal"),
}
every = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@every
@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_of_every_size_are_the_dense_product(
    make: Callable[[], Parametrization], shape: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower(monkeypatch, diagonal_block=block, own_diagonal=0)
    made = make()
    leaves = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((3, shape[1]), shape, shape[:1])]
    expected = F.linear(leaves[0], made(leaves[1]), leaves[2])
    torch.testing.assert_close(made.linear(*leaves), expected)
    torch.autograd.gradcheck(made.linear, leaves, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(made.linear, leaves, check_batched_grad=True)


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_the_weight_has_every_derivative(
    make: Callable[[], Parametrization], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lower(monkeypatch, own_diagonal=0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(make(), x, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(make(), x, check_batched_grad=True)


def test_a_stored_diagonal_of_zeros_is_multiplied_without_a_copy_and_differentiated_all_the_same() -> None:
    x = torch.randn(6, 6, dtype=torch.float64).fill_diagonal_(0).requires_grad_()
    leaves = [torch.randn(3, 6, dtype=torch.float64, requires_grad=True), x]

    def product(input: Tensor, x: Tensor) -> Tensor:
        return KINDS["ZeroDiagonal"]().linear(input, x, None)

    assert operations(lambda: product(*leaves), "aten::clone") == []
    assert operations(lambda: product(leaves[0], x + torch.eye(6)), "aten::clone") == [(6, 6)]

    along = [torch.randn_like(leaf) for leaf in leaves]  # with another diagonal

    def second(multiply: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(multiply(*leaves).tanh().sum(), leaves, create_graph=True)
        return torch.autograd.grad(first, leaves, along)

    for one, other in zip(second(product), second(lambda i, x: F.linear(i, ZeroDiagonal()(x))), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_only_blocks_on_the_diagonal_are_copied(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, diagonal_block=2)
    x = torch.ones(shape)
    copied = operations(lambda: KINDS["ZeroDiagonal"]().linear(torch.ones(3, shape[1]), x, None), "aten::clone")
    assert len(copied) == -(-min(shape) // 2)
    assert all(rows <= 2 and columns <= 2 for rows, columns in copied)
    assert bool(x.diagonal().all())


@pytest.mark.parametrize(("threshold", "sums"), [(0, []), (100, [(5, 4)])])
def test_the_gradient_of_the_diagonal_is_written_into_that_of_the_matrix(
    threshold: int, sums: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lower(monkeypatch, own_diagonal=threshold)
    x = torch.randn(5, 4, requires_grad=True)
    loss = KINDS["NegExpDiagonal"]().linear(torch.randn(3, 4), x, None).sum()
    # Plain autograd, below the threshold, adds a second matrix.
    assert operations(lambda: torch.autograd.grad(loss, x), "aten::add", "aten::add_") == sums


def product(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return KINDS["NegExpDiagonal"]().linear(input, x, bias)


def dense(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return F.linear(input, NegExpDiagonal()(x), bias)


def leaves(*batch: int) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in ((*batch, 4), (5, 4), (5,))]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 0), (1, 2, 3)])
def test_an_input_may_have_any_shape(batch: tuple[int, ...]) -> None:
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
    transform: Callable[[Any, Tensor], Any], place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower(monkeypatch, dense_jvp=0)
    values = leaves(3)

    def at(multiply: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda leaf: multiply(*values[:place], leaf, *values[place + 1 :])

    got, expected = (transform(at(multiply), values[place]) for multiply in (product, dense))
    torch.testing.assert_close(got, expected)
