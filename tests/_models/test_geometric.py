"""Layers of PyTorch Geometric, whose linear layers save their weight themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    Parametrization,
    ZeroDiagonal,
    bake,
    masks,
    plain_state_dict,
    register,
    summary,
)

KINDS: dict[str, Callable[[], Parametrization]] = {
    "Diagonal": Diagonal,
    "ZeroDiagonal": ZeroDiagonal,
    "NegExpDiagonal": NegExpDiagonal,
    "MaskedSparse": lambda: MaskedSparse(masks.banded(1, 1)),
}
LAYERS = ["GCNConv", "GATConv", "SAGEConv"]
EDGES = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 4, 4]])
FEATURES = torch.linspace(-1, 1, 20).view(5, 4)


class Saving(nn.Linear):
    """A layer that saves its weight itself."""

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()
        destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()


every = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def layer(make: Callable[[], Parametrization]) -> Any:
    return register(nn.Sequential(Saving(4, 4)), {"0.weight": make()})


@every
def test_a_layer_that_saves_itself_saves_the_stored_tensor_alone(make: Callable[[], Parametrization]) -> None:
    model = layer(make)
    usual = register(nn.Sequential(nn.Linear(4, 4)), {"0.weight": make()})
    assert model.state_dict().keys() == usual.state_dict().keys()
    assert list(plain_state_dict(model)) == ["0.weight", "0.bias"]


@every
def test_a_layer_that_saves_itself_loads_both_kinds_of_checkpoints(make: Callable[[], Parametrization]) -> None:
    model, other = (layer(make) for _ in range(2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].weight, model[0].weight)
    other[0].reset_parameters()
    other.load_state_dict(plain_state_dict(model))
    torch.testing.assert_close(other[0].weight, model[0].weight)
    plain: Any = nn.Sequential(Saving(4, 4))
    plain.load_state_dict(plain_state_dict(model))
    assert torch.equal(plain[0].weight, model[0].weight)


class Loading(Saving):
    """A layer that also loads its weight itself."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
        with torch.no_grad():
            self.weight.copy_(state_dict[f"{prefix}weight"])
            self.bias.copy_(state_dict[f"{prefix}bias"])


@every
def test_a_layer_that_loads_itself_loads_its_own_checkpoint(make: Callable[[], Parametrization]) -> None:
    model: Any = register(nn.Sequential(Loading(4, 4)), {"0.weight": make()})
    expected = model[0].weight.detach()
    state = copy.deepcopy(model.state_dict())
    model[0].reset_parameters()
    model.load_state_dict(state)
    assert torch.equal(model[0].weight, expected)


class Graph(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        import torch_geometric.nn as geometric

        make = getattr(geometric, kind)
        self.first, self.second = make(4, 4), make(4, 4)

    def forward(self, features: Tensor, edges: Tensor) -> Any:
        return self.second(torch.relu(self.first(features, edges)), edges)


def graph(kind: str, make: Callable[[], Parametrization]) -> Any:
    torch.manual_seed(0)
    return register(Graph(kind), {"*.lin*.weight": make()})


def train(model: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(FEATURES, EDGES).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
@every
def test_a_graph_network_trains_saves_loads_and_bakes(kind: str, make: Callable[[], Parametrization]) -> None:
    model = train(graph(kind, make))
    assert all(row.holds for row in summary(model).rows)
    expected = model(FEATURES, EDGES)
    other = graph(kind, make)
    assert not torch.equal(other(FEATURES, EDGES), expected)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(FEATURES, EDGES), expected)
    other = graph(kind, make)
    other.load_state_dict(plain_state_dict(model))
    torch.testing.assert_close(other(FEATURES, EDGES), expected)
    plain: Any = Graph(kind)
    plain.load_state_dict(plain_state_dict(model))
    torch.testing.assert_close(plain(FEATURES, EDGES), expected)
    for same in (bake(model), copy.deepcopy(model)):
        torch.testing.assert_close(same(FEATURES, EDGES), expected)
    assert type(bake(model).first) is type(plain.first)
    model.first.reset_parameters()
    assert all(row.holds for row in summary(model).rows)
