"""Forward-mode AD with dual numbers, without `torch.func`: over gradients and under gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import functional_call
from torch.nn import functional as F
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, masks, register
from tests.layers import PRODUCTS
from tests.thresholds import lower

N = 6
Chain = Callable[[], nn.Module | Sequence[nn.Module]]

CHAINS: dict[str, Chain] = {
    **PRODUCTS,
    "one by one": lambda: MaskedSparse(masks.banded(0, 0), product="strips"),
    "MaskedSparse-dense": lambda: MaskedSparse(masks.random(density=0.5), product="dense"),
    "Diagonal, NegExp": lambda: [Diagonal(), NegExpDiagonal()],
    "dense, NegExp": lambda: [MaskedSparse(masks.lower_triangular(), product="dense"), NegExpDiagonal()],
    "strips, NegExp": lambda: [MaskedSparse(masks.lower_triangular(), product="strips"), NegExpDiagonal()],
}
every = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, diagonal_block=4, strip_cost=1, index_copy=0)


class Dense(nn.Module):
    """Multiplies by the dense weight of a layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    @override
    def forward(self, input: Tensor) -> Tensor:
        layer: Any = self.layer
        return F.linear(input, layer.weight, layer.bias)


Loss = Callable[[Sequence[Tensor]], Tensor]


def losses(chain: Chain) -> tuple[Loss, Loss, list[Tensor]]:
    """Losses of the fused layer and of the dense product, and their arguments: the input and the parameters."""
    layer = register(nn.Linear(N, N, dtype=torch.float64), {"weight": chain()})
    names, values = zip(*layer.named_parameters(), strict=True)

    def loss(model: nn.Module, prefix: str) -> Loss:
        keys = [f"{prefix}{name}" for name in names]
        return lambda leaves: (
            functional_call(model, dict(zip(keys, leaves[1:], strict=True)), leaves[0]).tanh().square().sum()
        )

    leaves = [torch.randn(4, N, dtype=torch.float64), *(value.detach() for value in values)]
    return loss(layer, ""), loss(Dense(layer), "layer."), leaves


def tangents(tensors: Sequence[Tensor]) -> list[Tensor]:
    duals = [unpack_dual(tensor) for tensor in tensors]  # type: ignore[no-untyped-call]
    return [dual.primal.detach() * 0 if dual.tangent is None else dual.tangent for dual in duals]


@every
@pytest.mark.parametrize("again", [False, True], ids=["once", "differentiable again"])
def test_gradients_have_the_derivatives_of_the_dense_products(chain: Chain, again: bool) -> None:
    *both, leaves = losses(chain)
    along = [torch.randn_like(leaf) for leaf in leaves]

    def derivatives(loss: Loss, again: bool) -> list[Tensor]:
        with dual_level():
            duals: list[Tensor] = [
                make_dual(leaf.clone().requires_grad_(), tangent)  # type: ignore[no-untyped-call]
                for leaf, tangent in zip(leaves, along, strict=True)
            ]
            return tangents(torch.autograd.grad(loss(duals), duals, create_graph=again))

    for got, expected in zip(derivatives(both[0], again), derivatives(both[1], True), strict=True):
        torch.testing.assert_close(got, expected)


@every
def test_derivatives_have_the_gradients_of_the_dense_products(chain: Chain) -> None:
    *both, leaves = losses(chain)
    along = [torch.randn_like(leaf) for leaf in leaves]

    def gradients(loss: Loss) -> Sequence[Tensor]:
        own = [leaf.clone().requires_grad_() for leaf in leaves]
        with dual_level():
            duals: list[Tensor] = [make_dual(*pair) for pair in zip(own, along, strict=True)]  # type: ignore[no-untyped-call]
            (derivative,) = tangents([loss(duals)])
            return torch.autograd.grad(derivative, own)

    for got, expected in zip(*map(gradients, both), strict=True):
        torch.testing.assert_close(got, expected)
