"""The product with a replaced diagonal copies only diagonal blocks of the stored matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations import NegExpDiagonal, Parametrization, ZeroDiagonal
from parametrizations._products import replaced_diagonal
from parametrizations._products.replaced_diagonal import ZeroedDiagonal, with_own_diagonal

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
    monkeypatch.setattr(replaced_diagonal, "BLOCK", block)
    monkeypatch.setattr(replaced_diagonal, "MEDIUM", 0)
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
    monkeypatch.setattr(replaced_diagonal, "MEDIUM", 0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(make(), x, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(make(), x, check_batched_grad=True)


def test_a_stored_diagonal_of_zeros_is_multiplied_without_a_copy_and_differentiated_all_the_same() -> None:
    x = torch.randn(6, 6, dtype=torch.float64).fill_diagonal_(0).requires_grad_()
    assert ZeroedDiagonal.of(x).zeroed is not None
    assert ZeroedDiagonal.of(x + torch.eye(6)).zeroed is None
    leaves = [torch.randn(3, 6, dtype=torch.float64, requires_grad=True), x]

    def product(input: Tensor, x: Tensor) -> Tensor:
        return KINDS["ZeroDiagonal"]().linear(input, x, None)

    along = [torch.randn_like(leaf) for leaf in leaves]  # with another diagonal

    def second(multiply: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(multiply(*leaves).tanh().sum(), leaves, create_graph=True)
        return torch.autograd.grad(first, leaves, along)

    for one, other in zip(second(product), second(lambda i, x: F.linear(i, ZeroDiagonal()(x))), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_only_blocks_on_the_diagonal_are_copied(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced_diagonal, "BLOCK", 2)
    x = torch.randn(shape)
    parts = list(ZeroedDiagonal(x.shape)._parts(x))
    copied = [part for _, _, part in parts if part.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()]
    assert sum(part.numel() for _, _, part in parts) == x.numel()
    assert len(copied) == -(-min(shape) // 2)
    assert all(part.numel() <= 4 and not part.diagonal().any() for part in copied)
    assert bool(x.diagonal().all())


def test_the_gradient_of_the_diagonal_is_written_into_that_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaced_diagonal, "MEDIUM", 0)
    x = torch.arange(6.0).view(2, 3).requires_grad_()
    matrix, diagonal = with_own_diagonal(x, Tensor.diagonal, Tensor.diagonal_scatter)
    assert matrix.data_ptr() == x.data_ptr()
    assert diagonal.tolist() == [0, 4]
    # The product gives the diagonal of the matrix no gradient.
    (gradient,) = torch.autograd.grad([matrix, diagonal], x, [torch.ones(2, 3).tril(-1), torch.tensor([5.0, 7.0])])
    assert gradient.tolist() == [[5, 0, 0], [1, 7, 0]]


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
    transform: Callable[[Any, Tensor], Any], place: int
) -> None:
    values = leaves(3)

    def at(multiply: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda leaf: multiply(*values[:place], leaf, *values[place + 1 :])

    got, expected = (transform(at(multiply), values[place]) for multiply in (product, dense))
    torch.testing.assert_close(got, expected)
