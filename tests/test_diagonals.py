"""Main diagonals of blocks of rows and of batches: gates, heads and experts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    Parametrization,
    ZeroDiagonal,
    bake,
    explain,
    masks,
    register,
    summary,
)
from tests.layers import of_the_compiler
from tests.thresholds import lower

CONSTRAINTS: list[Any] = [Diagonal, ZeroDiagonal, NegExpDiagonal]
every_kind = pytest.mark.parametrize("kind", CONSTRAINTS)


def parts(kind: Callable[[], Parametrization], weight: Tensor, blocks: int) -> list[Any]:
    """A layer for each block of rows."""
    layers = []
    for rows in weight.chunk(blocks):
        layers.append(register(linear(rows), {"weight": kind()}))
    return layers


def linear(weight: Tensor) -> Any:
    layer: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return layer


@every_kind
@pytest.mark.parametrize("shape", [(12, 3), (6, 5), (4, 1)])
@pytest.mark.parametrize("product", ["dense", "structured"])
def test_blocks_are_separate_layers_one_under_another(
    kind: Any, shape: tuple[int, int], product: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower(monkeypatch, diagonal_block=2, own_diagonal=0)
    name = "dense" if product == "dense" else kind.products[0]
    layer: Any = nn.Linear(shape[1], shape[0])
    separate = parts(kind, layer.weight.detach(), 2)
    register(layer, {"weight": kind(blocks=2, product=name)})
    assert explain(layer).product == name
    assert torch.equal(layer.weight, torch.cat([part.weight for part in separate]))
    input = torch.randn(5, shape[1], requires_grad=True)
    other = input.detach().clone().requires_grad_()
    output, expected = layer(input), torch.cat([part(other) for part in separate], 1) + layer.bias
    torch.testing.assert_close(output, expected)
    factors = torch.randn_like(output)
    output.backward(factors)
    expected.backward(factors)
    torch.testing.assert_close(input.grad, other.grad)
    gradient = torch.cat([part.parametrizations.weight.original.grad for part in separate])
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, gradient)


@every_kind
def test_one_block_is_the_matrix_bit_for_bit(kind: Any) -> None:
    plain = nn.Linear(5, 4)
    one, other = (register(copy.deepcopy(plain), {"weight": kind(blocks=blocks)}) for blocks in (None, 1))
    input = torch.randn(3, 5)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one(input), other(input))


@every_kind
def test_experts_and_convolutions_have_a_diagonal_in_each_matrix(kind: Any) -> None:
    experts: Any = nn.Module()
    experts.weight = nn.Parameter(torch.randn(3, 4, 5))
    separate = [register(linear(weight), {"weight": kind()}) for weight in experts.weight.detach()]
    register(experts, {"weight": kind(axes=(-2, -1))})
    assert torch.equal(experts.weight, torch.stack([layer.weight for layer in separate]))
    for make in (nn.Conv2d, nn.ConvTranspose2d):
        convolution: Any = make(4, 6, 3)
        kernels = convolution.weight.detach()
        kernels = kernels.transpose(0, 1) if make is nn.ConvTranspose2d else kernels
        separate = [register(linear(kernels[:, :, i, j]), {"weight": kind()}) for i in range(3) for j in range(3)]
        expected = torch.stack([layer.weight for layer in separate], -1).view(6, 4, 3, 3)
        register(convolution, {make: kind()})  # supplies the axes
        weight = convolution.weight.transpose(0, 1) if make is nn.ConvTranspose2d else convolution.weight
        assert torch.equal(weight, expected)
        assert explain(convolution).product == "dense"


def test_a_copy_with_axes_refers_to_the_same_module() -> None:
    class Referring(ZeroDiagonal):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.modules_of_the_model = [module]

    model: Any = nn.ModuleDict({"convolution": nn.Conv2d(4, 4, 3), "other": nn.Linear(2, 2)})
    register(model, {"convolution.weight": Referring(model.other)})
    assert model.convolution.parametrizations.weight[0].modules_of_the_model[0] is model.other


STACKED: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "LSTM": (lambda: nn.LSTM(3, 4), "weight_hh_l0", 4),
    "GRU": (lambda: nn.GRU(3, 4), "weight_hh_l0", 3),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), "weight_hh", 4),
    "GRU inputs": (lambda: nn.GRU(4, 4), "weight_ih_l0", 3),
    "attention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight", 3),
}


@every_kind
@pytest.mark.parametrize(("make", "name", "gates"), STACKED.values(), ids=STACKED)
def test_one_diagonal_on_stacked_weights_warns(kind: Any, make: Callable[[], nn.Module], name: str, gates: int) -> None:
    with pytest.warns(
        UserWarning, match=f"first of the {gates} weights stacked in '{name}'. Pass blocks={gates}"
    ) as got:
        register(make(), {name: kind()})
    assert got[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register(make(), {name: kind(blocks=1)})
        layer = register(make(), {name: kind(blocks=gates)})
    for rows in getattr(layer, name).detach().chunk(gates):
        diagonal = rows.diagonal()
        assert {Diagonal: diagonal.any(), ZeroDiagonal: not diagonal.any(), NegExpDiagonal: (diagonal < 0).all()}[kind]


def test_another_number_of_blocks_than_gates_warns() -> None:
    with pytest.warns(UserWarning, match="cuts across the 3 weights stacked in 'weight_hh_l0'. Pass blocks=3"):
        register(nn.GRU(4, 8), {"weight_hh_l0": ZeroDiagonal(blocks=4)})


@every_kind
def test_convolutions_with_groups_need_axes(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"groups=4, .* Use MaskedSparse, or pass axes=\(0, 1\) and blocks=4"):
        register(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), {nn.Conv2d: kind()})
    register(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), {nn.Conv2d: kind(axes=(0, 1), blocks=2)})


def test_others_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register(nn.RNN(4, 4), {"weight_hh_l0": ZeroDiagonal()})
        register(nn.MultiheadAttention(4, 2), {"out_proj.weight": ZeroDiagonal()})
        register(nn.LSTM(4, 4), {"weight_hh_l0": MaskedSparse(masks.random(density=0.5))})


def test_chains_of_equal_blocks_act_on_the_stored_entries() -> None:
    layer: Any = register(nn.Linear(3, 6), {"weight": [Diagonal(blocks=2), NegExpDiagonal(blocks=2)]})
    assert explain(layer).product == "elementwise"
    input = torch.randn(2, 3)
    torch.testing.assert_close(layer(input), F.linear(input, layer.weight, layer.bias))
    assert bool((layer.weight.view(2, 3, 3).diagonal(dim1=-2, dim2=-1) < 0).all())
    other: Any = register(nn.Linear(3, 6), {"weight": [MaskedSparse(masks.lower_triangular()), ZeroDiagonal(blocks=2)]})
    assert explain(other) == ("dense", "a later constraint needs the whole weight")
    assert not other.weight.view(2, 3, 3).diagonal(dim1=-2, dim2=-1).any()


@every_kind
def test_a_checkpoint_of_other_blocks_is_refused(kind: Any) -> None:
    one = register(nn.Linear(8, 8), {"weight": kind()})
    other = register(nn.Linear(8, 8), {"weight": kind(blocks=2)})
    swapped = register(nn.Linear(8, 8), {"weight": kind(axes=(1, 0))})
    for model, checkpoint in ((one, other), (other, one), (swapped, one), (one, swapped)):
        before = model.weight.detach()
        with pytest.raises(RuntimeError, match="load_state_dict needs a checkpoint of "):
            model.load_state_dict(checkpoint.state_dict())
        assert torch.equal(model.weight, before)
    one.load_state_dict(register(nn.Linear(8, 8), {"weight": kind(blocks=1)}).state_dict())


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no blocks": (lambda: ZeroDiagonal(blocks=0), ValueError, "needs blocks of at least 1. Got 0"),
    "half a block": (lambda: ZeroDiagonal(blocks=0.5), TypeError, "needs whole numbers. Got float"),  # type: ignore[arg-type]
    "one axis": (lambda: ZeroDiagonal(axes=(0,)), TypeError, r"needs two axes, \(out, in\)"),  # type: ignore[arg-type]
    "rows": (
        lambda: register(nn.Linear(3, 4), {"weight": ZeroDiagonal(blocks=3)}),
        ValueError,
        "a number of rows that 3 blocks divide. Got 4",
    ),
    "an assignment": (
        lambda: setattr(register(nn.Linear(3, 6), {"weight": ZeroDiagonal(blocks=2)}), "weight", torch.ones(6, 3)),
        ValueError,
        "every entry on the main diagonal of each of 2 blocks of rows to be 0. Got .* 6 of 18 entries break this",
    ),
    "a vector": (
        lambda: register(nn.Linear(3, 4), {"bias": ZeroDiagonal(axes=(0, 1))}),
        ValueError,
        r"ZeroDiagonal needs a matrix, or a batch of matrices. Got shape \(4,\). Leave it out.",
    ),
    "unknown axes": (
        lambda: register(nn.Bilinear(3, 4, 5), {"weight": ZeroDiagonal()}),
        ValueError,
        r"Got 3, of shape \(5, 3, 4\). Pass its axes of outputs and inputs",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD.values(), ids=BAD)
def test_blocks_and_axes_are_checked(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


@of_the_compiler
@pytest.mark.filterwarnings("ignore:The tensor attributes self._flat_weights")
@every_kind
def test_a_recurrent_layer_trains_exports_and_bakes(kind: Any) -> None:
    layer: Any = register(nn.LSTM(3, 4), {"weight_hh_l0": kind(blocks=4)})
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(6, 2, 3))[0].square().sum().backward()
        optimizer.step()
    (row,) = summary(layer).rows
    assert row.holds
    baked, input = bake(layer), torch.randn(6, 2, 3)
    assert torch.equal(baked(input)[0], layer(input)[0])
    program = torch.export.export(layer, (input,))
    torch.testing.assert_close(program.module()(input)[0], baked(input)[0])
