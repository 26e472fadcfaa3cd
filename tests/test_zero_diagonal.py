from __future__ import annotations

import pytest
import torch

from parametrizations import ZeroDiagonal
from tests.layers import constrained, stored


@pytest.mark.parametrize("shape", [(3, 3), (7, 3), (3, 7)])
def test_only_the_diagonal_changes(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    layer = constrained(ZeroDiagonal(), weight)
    expected = weight.clone()
    for i in range(3):
        expected[i, i] = 0
    assert torch.equal(layer.weight, expected)


def test_the_stored_diagonal_gets_no_gradient() -> None:
    layer = constrained(ZeroDiagonal(), torch.randn(4, 3))
    layer.weight.square().sum().backward()
    gradient = stored(layer).grad
    assert gradient is not None
    assert torch.equal(gradient.diagonal(), torch.zeros(3))
    assert int((gradient != 0).sum()) == 9


@pytest.mark.parametrize("hidden", [torch.inf, -torch.inf, torch.nan])
def test_the_weight_has_a_zero_diagonal_for_any_stored_diagonal(hidden: float) -> None:
    layer = constrained(ZeroDiagonal(), torch.randn(4, 4))
    with torch.no_grad():
        stored(layer).fill_diagonal_(hidden)
    assert torch.equal(layer.weight.diagonal(), torch.zeros(4))
