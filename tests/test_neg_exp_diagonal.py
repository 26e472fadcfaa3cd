from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from parametrizations import NegExpDiagonal, positive
from parametrizations.parametrization import FLOATING
from tests.layers import constrained, every_number, stored

BOUND = {torch.float16: 8.0, torch.bfloat16: 80.0, torch.float32: 80.0, torch.float64: 700.0}


def on_the_diagonal(values: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal for each stored value, and its gradient, from one 1 x 1 matrix each."""
    x = values.clone().requires_grad_()
    diagonal = torch.func.vmap(NegExpDiagonal())(x.view(-1, 1, 1)).view(-1)
    (gradient,) = torch.autograd.grad(diagonal.sum(), x)
    return diagonal.detach(), gradient


@pytest.mark.parametrize("dtype", FLOATING)
def test_every_finite_stored_value_gives_a_finite_negative_diagonal(dtype: torch.dtype) -> None:
    values = every_number(dtype)
    diagonal, gradient = on_the_diagonal(values)
    assert len(values) > 60_000
    assert bool(diagonal.isfinite().all())
    assert bool((diagonal <= -torch.finfo(dtype).tiny).all())
    assert bool(gradient.isfinite().all())
    assert bool((gradient[values > BOUND[dtype]] < 0).all())


@pytest.mark.parametrize("dtype", FLOATING)
def test_the_map_is_the_documented_one(dtype: torch.dtype) -> None:
    c = BOUND[dtype]
    values = torch.tensor([-3.0, 0.0, 1.5, c - 0.5, c, c + 1, 4 * c], dtype=dtype)
    diagonal, _ = on_the_diagonal(values)
    for x, got in zip(values.tolist(), diagonal.tolist(), strict=True):
        expected = -math.exp(x) if x <= c else -math.exp(c) * (1 + math.log(1 + x - c))
        assert got == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps)


def test_the_two_halves_join_with_the_same_value_and_slope() -> None:
    values = torch.tensor([700 - 1e-9, 700, 700 + 1e-9], dtype=torch.float64)
    diagonal, gradient = on_the_diagonal(values)
    assert torch.allclose(diagonal / -math.exp(700), torch.ones(3, dtype=torch.float64), rtol=1e-8)
    assert torch.allclose(gradient / -math.exp(700), torch.ones(3, dtype=torch.float64), rtol=1e-8)


@pytest.mark.parametrize("dtype", FLOATING)
def test_registering_moves_a_negative_entry_by_rounding_alone(dtype: torch.dtype) -> None:
    values = -every_number(dtype).abs()
    largest = NegExpDiagonal()(torch.full((1, 1), torch.finfo(dtype).max, dtype=dtype)).item()
    values = values[(values <= -torch.finfo(dtype).tiny) & (values >= largest)]
    assert len(values) > 25_000
    weights = values.view(-1, 1, 1)
    x = torch.func.vmap(NegExpDiagonal().invert)(weights)
    moved = torch.func.vmap(NegExpDiagonal())(x).double() / weights.double() - 1
    allowed = (1 + weights.double().abs().log().abs()) * torch.finfo(dtype).eps
    worst = (moved.abs() / allowed).max().item()
    assert worst <= 1, f"{worst:.3f} of the allowed relative error"


@pytest.mark.parametrize("dtype", FLOATING)
def test_an_entry_that_is_not_negative_is_reflected_or_put_at_the_floor(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.5, 2.0, 0.0], [1.0, 0.0, 3.0], [0.0, -4.0, 1e-7]], dtype=dtype)
    layer = constrained(NegExpDiagonal(), weight)
    expected = torch.tensor([-0.5, -1e-4, -1e-4], dtype=dtype)
    rounding = 10.5 * torch.finfo(dtype).eps
    torch.testing.assert_close(layer.weight.diagonal(), expected, rtol=rounding, atol=0.0)
    off = ~torch.eye(3, dtype=torch.bool)
    assert torch.equal(layer.weight[off], weight[off])


@pytest.mark.parametrize("dtype", FLOATING)
def test_a_fresh_linear_layer_keeps_the_size_of_its_diagonal(dtype: torch.dtype) -> None:
    before = nn.Linear(64, 64, dtype=dtype).weight.detach()
    layer = constrained(NegExpDiagonal(), before)
    size = before.diagonal().abs()
    allowed = (1 + size.log().abs()) * torch.finfo(dtype).eps
    assert bool(((layer.weight.diagonal() / -size - 1).abs() <= allowed).all())


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 0.5, -3e38])
def test_assigning_a_value_outside_the_range_raises(value: float) -> None:
    layer = constrained(NegExpDiagonal(), -torch.ones(2, 2))
    weight = torch.tensor([[-1.0, 0.0], [0.0, value]])
    with pytest.raises(ValueError, match=r"main diagonal to be negative.* 1 of 4 entries.* row 1, column 1"):
        layer.weight = weight
    layer.parametrizations.weight[0].on_infeasible = "project"
    layer.weight = weight
    assert layer.parametrizations.weight[0].contains(layer.weight)


def test_a_complex_diagonal_has_a_negative_real_part_and_a_free_imaginary_one() -> None:
    x = torch.tensor([[0.5 + 2j, 1 - 1j], [3 + 0j, -2 - 3j]])
    expected = x.clone()
    expected.diagonal().copy_(torch.complex(-x.diagonal().real.exp(), x.diagonal().imag))
    assert torch.equal(NegExpDiagonal()(x), expected)
    layer = constrained(NegExpDiagonal(), torch.diag(torch.tensor([0.5 + 1j, -2.0 - 1j])))
    torch.testing.assert_close(layer.weight.diagonal(), torch.tensor([-0.5 + 1j, -2.0 - 1j]))


def test_an_unsupported_dtype_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a stored tensor of a real floating dtype.* Got torch.int64"):
        NegExpDiagonal()(torch.eye(3).long())
    assert not NegExpDiagonal().contains(-torch.eye(3).long())


def forum_example() -> tuple[nn.Module, Tensor]:
    """The stored matrix and the inputs of a forum thread on negative diagonals."""
    torch.manual_seed(2023)
    matrix, inputs = torch.randn(5, 5), torch.randn(5, 5)
    layer = constrained(NegExpDiagonal(), matrix)
    with torch.no_grad():
        stored(layer).copy_(matrix)
    return layer, inputs


def test_the_forum_example_to_four_decimals() -> None:
    layer, inputs = forum_example()
    weight = layer.weight
    assert isinstance(weight, Tensor)
    diagonal = [-1.5380, -1.5262, -2.2668, -3.7607, -0.4784]
    assert [round(value, 4) for value in weight.diagonal().tolist()] == diagonal
    (weight @ inputs).sum().backward()  # type: ignore[no-untyped-call]
    gradient = stored(layer).grad
    assert gradient is not None
    rows = torch.tensor([0.7895, 0.9742, 3.3650, -1.4189, 2.5436]).repeat(5, 1)
    expected = rows.diagonal_scatter(torch.tensor([-1.2142, -1.4869, -7.6279, 5.3361, -1.2168]))
    assert torch.equal((gradient * 1e4).round(), (expected * 1e4).round())


def test_the_forum_example_trains_for_18_epochs() -> None:
    layer, inputs = forum_example()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(18):
        optimizer.zero_grad()
        loss = (layer(inputs) - inputs).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert isinstance(layer.weight, Tensor)
    assert bool((layer.weight.diagonal() < 0).all())


class InFloat32(TorchFunctionMode):
    """Computes exp and log as autocast on CUDA does."""

    @override
    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        wide = function in (Tensor.exp, Tensor.log, Tensor.log1p)
        taken = [one.float() if wide and isinstance(one, Tensor) else one for one in arguments]
        return function(*taken, **(named or {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_map_and_its_inverse_keep_their_dtype_under_an_autocast_that_widens(dtype: torch.dtype) -> None:
    size = torch.tensor([1e-3, 1.0, torch.finfo(dtype).max / 2], dtype=dtype)
    with InFloat32():
        stored = positive.log(size)
        again = positive.exp(stored)
    assert (stored.dtype, again.dtype) == (dtype, dtype)
    assert bool(stored.isfinite().all())
