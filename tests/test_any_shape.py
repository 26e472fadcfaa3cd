"""`MaskedSparse` on weights with other than two dimensions, and the axes of mask rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from parametrizations import (
    MaskedSparse,
    ZeroDiagonal,
    bake,
    dense_gradients,
    explain,
    masks,
    plain_state_dict,
    register,
    remask,
    summary,
)
from parametrizations.masks import MaskRule
from tests.layers import of_the_compiler

SHAPES: list[tuple[int, ...]] = [(7,), (3, 4), (2, 3, 4), (4, 2, 3, 3), (2, 2, 2, 2, 2)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def holder(weight: Tensor) -> Any:
    module = nn.Module()
    module.weight = nn.Parameter(weight.clone())
    return module


def masked(weight: Tensor) -> Any:
    return register(holder(weight), {"weight": MaskedSparse(masks.random(density=0.4))})


def chosen(shape: tuple[int, ...]) -> Tensor:
    mask = torch.arange(torch.Size(shape).numel()).view(shape) % 3 == 1
    assert mask.any()
    return mask


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_the_weight_is_the_masked_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight, mask = torch.randn(shape, dtype=dtype), chosen(shape)
    module = register(holder(weight), {"weight": MaskedSparse(mask)})
    assert torch.equal(module.weight, weight * mask)
    x = module.parametrizations.weight.original
    assert x.shape == (int(mask.sum()),)
    factors = torch.randn(shape, dtype=dtype)
    loss: Any = (module.weight * factors).real.float().sum()
    loss.backward()
    assert torch.equal(x.grad, factors[mask].conj())
    assert torch.equal(module.parametrizations.weight[0].mask, mask)
    assert explain(module) == (("dense", "the weight is not a matrix") if len(shape) != 2 else explain(module))
    (row,) = summary(module).rows
    assert (row.shape, row.stored, row.holds) == (shape, int(mask.sum()), True)


@every_shape
def test_gradients_are_right(shape: tuple[int, ...]) -> None:
    module = register(holder(torch.randn(shape, dtype=torch.float64)), {"weight": MaskedSparse(chosen(shape))})
    step, x = module.parametrizations.weight[0], module.parametrizations.weight.original
    torch.autograd.gradcheck(step, (x,), check_forward_ad=True, check_batched_grad=True)


@every_shape
def test_checkpoints_cross_both_ways(shape: tuple[int, ...]) -> None:
    one, other = (masked(torch.randn(shape)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.weight, one.weight)
    assert torch.equal(other.parametrizations.weight[0].mask, one.parametrizations.weight[0].mask)
    one.weight = one.weight * 2
    other.load_state_dict(plain_state_dict(one))
    assert torch.equal(other.weight, one.weight)
    assert torch.equal(bake(one).weight, one.weight)
    assert torch.equal(copy.deepcopy(one).weight, one.weight)
    if len(shape) > 1:
        wrong = masked(torch.randn((*shape[::-1], 1)))
        with pytest.raises(RuntimeError, match="needs a mask for a weight of shape"):
            wrong.load_state_dict(one.state_dict())


@every_shape
def test_an_assigned_weight_outside_the_mask_is_refused(shape: tuple[int, ...]) -> None:
    module = register(holder(torch.randn(shape)), {"weight": MaskedSparse(chosen(shape))})
    place = r"row \d+, column \d+" if len(shape) == 2 else r"index \(\d"
    with pytest.raises(ValueError, match=f"every entry outside the mask to be 0.* at {place}"):
        module.weight = torch.ones(shape)
    with pytest.raises(ValueError, match="needs a weight of shape"):
        module.weight = torch.zeros((*shape, 1))


def test_a_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match=r"MaskedSparse needs a mask of at least 1 dimension. Got shape \(\)"):
        register_parametrization(holder(torch.ones(())), "weight", MaskedSparse(masks.random(density=1.0)))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), (2, 4, 8)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 8, 8)),
    "Conv3d": (lambda: nn.Conv3d(2, 4, 2), (2, 2, 4, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5)),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 3), (2, 4)),
}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_a_masked_layer_trains_as_the_masked_plain_layer(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer: Any = make()
    plain: Any = copy.deepcopy(layer)
    register(layer, {type(layer): MaskedSparse(masks.magnitude(density=0.3))})
    mask = layer.parametrizations.weight[0].mask
    inputs = (torch.randn(shape),) * (2 if isinstance(layer, nn.Bilinear) else 1)
    optimizers = [torch.optim.Adam(each.parameters(), 0.01) for each in (layer, plain)]
    for _ in range(3):
        with torch.no_grad():
            plain.weight.mul_(mask)
        for each, optimizer in zip((layer, plain), optimizers, strict=True):
            optimizer.zero_grad()
            each(*inputs).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(layer.weight, plain.weight * mask)
    layer.reset_parameters()
    assert not layer.weight[~mask].any()
    assert layer.weight[mask].all()


def test_initialising_a_convolution_gives_the_distribution_of_the_plain_layer() -> None:
    layer: Any = register(nn.Conv2d(8, 64, 3), {"weight": MaskedSparse(masks.random(density=0.5))})
    layer.reset_parameters()
    bound = nn.Conv2d(8, 64, 3).weight.abs().max()
    assert 0.95 * bound < layer.weight.abs().max() < 1.05 * bound


def test_meta_and_to_empty() -> None:
    with torch.device("meta"):
        layer: Any = nn.Conv2d(4, 4, 3)
    register(layer, {nn.Conv2d: MaskedSparse(masks.block_diagonal(2))}).to_empty(device="cpu").reset_parameters()
    assert layer(torch.ones(1, 4, 3, 3)).shape == (1, 4, 1, 1)
    assert layer.parametrizations.weight.original.shape == (72,)


@of_the_compiler
def test_compile_and_export() -> None:
    layer: Any = register(nn.Conv2d(4, 4, 3), {nn.Conv2d: MaskedSparse(masks.magnitude(density=0.5))})
    inputs = torch.randn(2, 4, 5, 5)
    expected = layer(inputs)
    compiled: Any = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(inputs), expected)
    torch.testing.assert_close(torch.export.export(layer, (inputs,)).module()(inputs), expected)


@pytest.mark.parametrize("rule", ["evolutionary", "rigl", "magnitude"])
def test_remask_moves_the_mask_of_a_convolution(rule: str) -> None:
    layer: Any = register(nn.Conv2d(4, 6, 3), {nn.Conv2d: MaskedSparse(masks.magnitude(density=0.5))})
    optimizer = torch.optim.Adam(layer.parameters())
    with dense_gradients(layer, nn.Conv2d) as gradients:
        layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
    optimizer.step()
    before, weight = layer.parametrizations.weight[0].mask, layer.weight.detach()
    rules = {
        "evolutionary": masks.evolutionary(0.3),
        "rigl": masks.rigl(0.3, gradients),
        "magnitude": masks.magnitude(density=0.25),
    }
    remask(layer, {nn.Conv2d: rules[rule]}, optimizer=optimizer)
    x, after = layer.parametrizations.weight.original, layer.parametrizations.weight[0].mask
    assert torch.equal(layer.weight[before & after], weight[before & after])
    assert not layer.weight[after & ~before].any()
    assert optimizer.state[x]["exp_avg"].shape == x.shape
    if rule == "rigl":
        dense = gradients["weight"][:].abs().masked_fill(before & after, 0)
        assert dense[after & ~before].min() >= dense[~(before | after)].max()


def test_the_dense_gradient_of_a_convolution_is_that_of_the_plain_layer() -> None:
    layer: Any = register(nn.Conv2d(2, 3, 3), {nn.Conv2d: MaskedSparse(masks.magnitude(density=0.5))})
    inputs = torch.randn(2, 2, 5, 5)
    with dense_gradients(layer) as gradients:
        layer(inputs).square().sum().backward()
    weight = layer.weight.detach().requires_grad_()
    output: Any = F.conv2d(inputs, weight, layer.bias.detach()).square().sum()
    (expected,) = torch.autograd.grad(output, weight)
    torch.testing.assert_close(gradients["weight"][:], expected)
    torch.testing.assert_close(gradients["weight"][1:2], expected[1:2])


# Axes


STRUCTURAL: dict[str, Callable[..., MaskRule]] = {
    "banded": lambda **axes: masks.banded(1, 0, **axes),
    "lower_triangular": lambda **axes: masks.lower_triangular(-1, **axes),
    "block_diagonal": lambda **axes: masks.block_diagonal(2, **axes),
    "from_edges": lambda **axes: masks.from_edges([(0, 1), (3, 2), (5, 3)], **axes),
    "autoregressive": lambda **axes: masks.autoregressive(range(6), range(4), **axes),
    "n_of_m": lambda **axes: masks.n_of_m(1, 3, **axes),
}
every_rule = pytest.mark.parametrize("rule", STRUCTURAL.values(), ids=STRUCTURAL)


@every_rule
@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (-2, -1), (2, 0), (3, 1)], ids=str)
def test_a_rule_with_axes_is_the_rule_of_each_matrix(rule: Callable[..., MaskRule], axes: tuple[int, int]) -> None:
    shape = [2, 3, 2, 2]
    shape[axes[0]], shape[axes[1]] = 4, 6
    weight = torch.randn(shape)
    mask = rule(axes=axes)(weight)
    assert mask.shape == weight.shape
    matrices, found = weight.movedim(axes, (0, 1)).flatten(2), mask.movedim(axes, (0, 1)).flatten(2)
    for index in range(matrices.shape[2]):
        assert torch.equal(found[..., index], rule()(matrices[..., index]))


@every_rule
def test_axes_turn_a_matrix_around(rule: Callable[..., MaskRule]) -> None:
    weight = torch.randn(6, 4)
    assert torch.equal(rule(axes=(1, 0))(weight), rule()(weight.T).T)


@every_rule
def test_more_than_two_dimensions_need_axes(rule: Callable[..., MaskRule]) -> None:
    with pytest.raises(
        ValueError, match=r"needs to know the axes of outputs and inputs. Got shape \(4, 6, 3\). Pass axes"
    ):
        rule()(torch.ones(4, 6, 3))
    with pytest.raises(ValueError, match="needs a matrix, or a batch of matrices"):
        rule()(torch.ones(4))
    with pytest.raises(ValueError, match="needs two different axes of the weight"):
        rule(axes=(0, 5))(torch.ones(4, 6, 3))


@every_rule
def test_register_supplies_the_axes_of_convolutions(rule: Callable[..., MaskRule]) -> None:
    model: Any = nn.ModuleList([nn.Conv1d(6, 4, 3), nn.ConvTranspose2d(6, 4, 2)])
    weights = [layer.weight.detach() for layer in model]
    register(model, {"*.weight": MaskedSparse(rule())})
    for layer, weight, axes in zip(model, weights, [(0, 1), (1, 0)], strict=True):
        expected = rule(axes=axes)(weight)
        assert torch.equal(layer.parametrizations.weight[0].mask, expected)
    dense = MaskedSparse(masks.random(density=1.0))
    other: Any = register(nn.Conv1d(6, 4, 3), {nn.Conv1d: dense})
    remask(other, {nn.Conv1d: rule()}, optimizer=None)
    assert other.parametrizations.weight[0].mask.any()


def test_erdos_renyi_counts_kernels_and_batches() -> None:
    model: Any = nn.ModuleList([nn.Conv2d(8, 16, 3), nn.ConvTranspose2d(16, 8, 3), nn.Linear(32, 32)])
    register(model, {"*.weight": MaskedSparse(masks.erdos_renyi(density=0.2))})
    counts = [layer.parametrizations.weight.original.numel() for layer in model]
    assert sum(counts) == round(0.2 * sum(layer.weight.numel() for layer in model))
    assert counts[0] == counts[1]
    assert abs(counts[2] / counts[0] - 64 / (8 + 16 + 3 + 3)) < 0.02
    experts, one = torch.randn(3, 8, 16), torch.randn(8, 16)
    rule = masks.erdos_renyi(density=0.25, axes=(-2, -1))
    assert rule.spread is not None
    of_experts, of_one = rule.spread([masks.Kept.whole(experts), masks.Kept.whole(one)])
    assert abs(int(of_experts(experts).sum()) - 3 * int(of_one(one).sum())) <= 3


# Classes as keys


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(8, 8),
        nn.Linear(8, 2),
    )


def constrained_names(model: nn.Module) -> list[str]:
    return [row.name for row in summary(model).rows]


def test_a_class_stands_for_the_weights_of_its_instances() -> None:
    half = MaskedSparse(masks.magnitude(density=0.5))
    model = register(network(), {nn.Conv2d: half, nn.Linear: ZeroDiagonal(), "5.weight": None})
    assert constrained_names(model) == ["0.weight", "3.weight", "6.weight"]
    remask(model, {nn.Conv2d: masks.magnitude(density=0.25), "0.weight": None}, optimizer=None)
    assert [row.stored for row in summary(model).rows[:2]] == [108, 144]
    assert constrained_names(bake(model, nn.Linear)) == ["0.weight", "3.weight"]
    assert constrained_names(bake(model, [nn.Conv2d, "6.*"])) == []


def test_a_name_counts_more_than_a_pattern_and_a_pattern_more_than_a_class() -> None:
    half = MaskedSparse(masks.random(density=0.5))
    rules: dict[Any, nn.Module | None] = {nn.Linear: ZeroDiagonal(), "[56].weight": half, "6.weight": None}
    model: Any = register(network(), rules)
    assert constrained_names(model) == ["5.weight"]
    assert type(model[5].parametrizations.weight[0]) is MaskedSparse
    rules = {nn.Linear: ZeroDiagonal(), "[56].weight": None, "6.weight": ZeroDiagonal()}
    assert constrained_names(register(network(), rules)) == ["6.weight"]


def test_a_class_matches_subclasses_and_constrained_layers() -> None:
    class Own(nn.Linear):
        pass

    model: Any = register(nn.Sequential(Own(3, 3), nn.Linear(3, 3)), {nn.Linear: ZeroDiagonal()})
    assert constrained_names(model) == ["0.weight", "1.weight"]
    with pytest.raises(ValueError, match="constraints of different classes"):
        register(model, {Own: ZeroDiagonal()})


REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "no such module": (network, nn.Conv3d, "needs a parameter for Conv3d. Got none in modules of this class"),
    "an LSTM": (
        lambda: nn.LSTM(2, 2),
        nn.LSTM,
        "for LSTM. Got no matrix with the name 'weight'.*such as 'weight_ih_l0'",
    ),
    "a normalisation": (network, nn.BatchNorm2d, "no matrix with the name 'weight' in its layers. Name its"),
    "a lazy layer": (lambda: nn.LazyLinear(2), nn.LazyLinear, "needs an initialised, unsharded tensor at 'weight'"),
    "two classes": (network, nn.Module, "Got two for '5.weight': Linear and Module"),
}


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_a_class_without_usable_weights_is_refused(make: Callable[[], nn.Module], kind: Any, message: str) -> None:
    model = make()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        register(
            model,
            {nn.Linear: MaskedSparse(masks.random(density=0.5)), kind: MaskedSparse(masks.random(density=0.5))}
            if kind is nn.Module
            else {kind: MaskedSparse(masks.random(density=0.5))},
        )
    assert not constrained_names(model)


def test_a_pattern_reaches_vectors_only_if_it_matches_nothing_else() -> None:
    rule = MaskedSparse(masks.magnitude(density=0.5))
    with pytest.raises(
        ValueError, match=r"two or more dimensions for '\*.weight'. Got '1.weight' of shape \(8,\). Narrow"
    ):
        register(network(), {"*.weight": rule})
    model = register(network(), {"1.*eight": rule})
    assert constrained_names(model) == ["1.weight"]
    assert model[1].parametrizations.weight.original.shape == (4,)
    assert constrained_names(register(network(), {"*.weight": rule, "1.weight": None})) == [
        "0.weight",
        "3.weight",
        "5.weight",
        "6.weight",
    ]
