"""The modules of `torch.nn`: those that work with a computed weight, and those that cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, masks, register

N = 6


def sequence(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


def lazy() -> nn.Module:
    layer = nn.LazyLinear(N)
    layer(sequence(2, N))
    return layer


def once(*shape: int) -> Callable[[Any], Tensor]:
    return lambda module: module(sequence(*shape))


def on_first(*shape: int) -> Callable[[Any], Tensor]:
    return lambda module: module(sequence(*shape))[0]


def twice(*shape: int) -> Callable[[Any], Tensor]:
    return lambda module: module(sequence(*shape), sequence(*shape))


def attend(module: Any) -> Tensor:
    output: Tensor = module(sequence(2, 3, N), sequence(2, 3, module.kdim), sequence(2, 3, module.vdim))[0]
    return output


SMALL: dict[str, Any] = {"dim_feedforward": 8, "dropout": 0.0, "batch_first": True}
ROWS = torch.tensor([[0, 2, 2, 4]])

WORKING: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "Linear": (lambda: nn.Linear(N, 4), once(3, N)),
    "LazyLinear": (lazy, once(3, N)),
    "Embedding": (lambda: nn.Embedding(5, N), lambda module: module(ROWS)),
    "Embedding, padding_idx": (lambda: nn.Embedding(5, N, padding_idx=2), lambda module: module(ROWS)),
    "Embedding, scale_grad_by_freq": (
        lambda: nn.Embedding(5, N, scale_grad_by_freq=True),
        lambda module: module(ROWS),
    ),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, N, padding_idx=2), lambda module: module(ROWS)),
    "EmbeddingBag, max": (lambda: nn.EmbeddingBag(5, N, mode="max"), lambda module: module(ROWS)),
    "RNN": (lambda: nn.RNN(N, 4, 2, bidirectional=True), on_first(3, 2, N)),
    "LSTM": (lambda: nn.LSTM(N, 4, proj_size=3), on_first(3, 2, N)),
    "GRU": (lambda: nn.GRU(N, 4), on_first(3, 2, N)),
    "RNNCell": (lambda: nn.RNNCell(N, 4), once(2, N)),
    "LSTMCell": (lambda: nn.LSTMCell(N, 4), on_first(2, N)),
    "GRUCell": (lambda: nn.GRUCell(N, 4), once(2, N)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(N, 2, batch_first=True), attend),
    "MultiheadAttention, kdim": (lambda: nn.MultiheadAttention(N, 2, kdim=4, vdim=5, batch_first=True), attend),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(N, 2, **SMALL), once(2, 3, N)),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(N, 2, **SMALL), twice(2, 3, N)),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(N, 2, **SMALL), 2),
        once(2, 3, N),
    ),
    "Transformer": (lambda: nn.Transformer(N, 2, 1, 1, **SMALL), twice(2, 3, N)),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(N, 10, [3, 6], div_value=2.0),
        lambda module: module(sequence(4, N), torch.tensor([0, 4, 8, 2])).loss,
    ),
    "LayerNorm": (lambda: nn.LayerNorm((3, N)), once(2, 3, N)),
    "RMSNorm": (lambda: nn.RMSNorm((3, N)), once(2, 3, N)),
}


def outputs(module: nn.Module, call: Callable[[Any], Tensor], training: bool) -> list[Tensor]:
    module.train(training)
    if not training:
        with torch.no_grad():  # the fast paths of attention
            return [call(module)]
    found = []
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        found.append(call(module))
        loss: Any = found[-1].square().sum()
        loss.backward()
        optimizer.step()
    return found


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(("make", "call"), WORKING.values(), ids=WORKING)
def test_a_mask_that_keeps_everything_changes_nothing(
    make: Callable[[], nn.Module], call: Callable[[Any], Tensor], training: bool
) -> None:
    torch.manual_seed(0)
    plain = make()
    matrices = [name for name, parameter in plain.named_parameters() if parameter.dim() == 2]
    rules = {name: MaskedSparse(masks.random(density=1.0)) for name in matrices}
    constrained = register(copy.deepcopy(plain), rules)
    assert matrices
    torch.testing.assert_close(outputs(constrained, call, training), outputs(plain, call, training))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "max_norm": (lambda: nn.Embedding(4, 6, max_norm=1.0), "only reads 'weight'.*Embedding with max_norm"),
    "max_norm of a bag": (lambda: nn.EmbeddingBag(4, 6, max_norm=1.0), "EmbeddingBag with max_norm.*max_norm=None"),
    "sparse": (lambda: nn.Embedding(4, 6, sparse=True), "dense gradients for 'weight'.*sparse=True.*Set sparse=False"),
    "sparse bag": (lambda: nn.EmbeddingBag(4, 6, sparse=True), "EmbeddingBag with sparse=True"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("constraint", [Diagonal, ZeroDiagonal, NegExpDiagonal])
def test_an_embedding_that_writes_into_its_weight_is_refused(
    make: Callable[[], nn.Module], message: str, constraint: Callable[[], nn.Module]
) -> None:
    layer = make()
    with pytest.raises(ValueError, match=message):
        register(layer, {"weight": constraint()})
    assert isinstance(layer.weight, nn.Parameter)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_the_padding_row_of_an_embedding_stays_zero(kind: type[nn.Embedding]) -> None:
    with pytest.raises(ValueError, match=r"padding row of 'weight' at zero. Got NegExpDiagonal, which changes row 2"):
        register(kind(4, 6, padding_idx=2), {"weight": NegExpDiagonal()})
    beyond = register(kind(8, 6, padding_idx=7), {"weight": NegExpDiagonal()})
    assert not beyond.weight[7].any()
    layer = register(kind(4, 6, padding_idx=2), {"weight": Diagonal()})
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        layer(ROWS % 4).sum().backward()
        optimizer.step()
    assert layer.weight[0].any()
    assert not layer.weight[2].any()
    layer.reset_parameters()
    assert not layer.weight[2].any()


CONTAINERS: dict[str, Callable[[], nn.Module]] = {
    "ParameterList": lambda: nn.ParameterList([torch.eye(3), torch.eye(3)]),
    "ParameterDict": lambda: nn.ParameterDict({"a": torch.eye(3), "b": torch.eye(3)}),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_of_parameters_is_refused(kind: str) -> None:
    model = nn.ModuleDict({"all": CONTAINERS[kind]()})
    with pytest.raises(ValueError, match=f"Got {kind}: its slices and copies.*a module of its own"):
        register(model, {"all.*": ZeroDiagonal()})
    assert len(list(model.parameters())) == 2
