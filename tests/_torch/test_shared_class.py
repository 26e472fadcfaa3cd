"""The shared class of constrained layers: other layers, copies, removal, second tensors, tracing."""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from typing_extensions import override

from parametrizations import Diagonal, NegExpDiagonal, Parametrization, ZeroDiagonal, bake, explain, fuse, register
from tests.layers import INPUTS, Counter, Doubled, dense_output, every, fused, of_the_compiler


def test_layers_of_a_kind_share_one_class_and_others_do_not() -> None:
    one, other, biased = fused(Diagonal), fused(ZeroDiagonal), fused(Diagonal)
    register_parametrization(biased, "bias", nn.Identity())
    assert type(one) is type(other)
    assert type(one).__bases__ == (nn.Linear,)
    assert type(one).__module__ == nn.Linear.__module__


@every
def test_removal_by_pytorch_leaves_every_other_layer_unchanged(make: Callable[[], Parametrization]) -> None:
    layer, neighbour = fused(make), fused(make)
    twin = copy.deepcopy(layer)
    expected = [dense_output(one).detach() for one in (layer, neighbour, twin)]
    remove_parametrizations(twin, "weight")
    assert type(twin) is nn.Linear
    assert not hasattr(twin, "parametrizations")
    assert type(twin.weight) is nn.Parameter
    for one, output in zip((layer, neighbour, twin), expected, strict=True):
        torch.testing.assert_close(one(INPUTS), output)
        torch.testing.assert_close(dense_output(one), output)


@every
def test_a_parametrization_on_the_bias_joins_and_leaves(make: Callable[[], Parametrization]) -> None:
    layer, neighbour = fused(make), fused(make)
    bias = layer.bias.detach().clone()
    register_parametrization(layer, "bias", Doubled())
    assert torch.equal(layer.bias, 2 * bias)
    assert type(neighbour.bias) is nn.Parameter
    for one in (layer, neighbour, fuse(layer)):
        torch.testing.assert_close(one(INPUTS), dense_output(one))
    remove_parametrizations(layer, "weight")
    assert type(layer.weight) is nn.Parameter
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear
    assert torch.equal(layer.bias, 2 * bias)
    torch.testing.assert_close(neighbour(INPUTS), dense_output(neighbour))


def test_a_bias_that_was_parametrized_first_is_kept() -> None:
    layer: Any = register_parametrization(nn.Linear(6, 4), "bias", Doubled())
    layer = fuse(register_parametrization(layer, "weight", Diagonal()))
    remove_parametrizations(layer, "bias")
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    assert explain(layer).product == "elementwise"


def test_assigning_goes_through_the_parametrization() -> None:
    layer = fused(ZeroDiagonal)
    layer.weight = torch.ones(4, 6).fill_diagonal_(0)
    assert torch.equal(layer.weight, torch.ones(4, 6).fill_diagonal_(0))
    with pytest.raises(ValueError, match="needs every entry on the main diagonal to be 0"):
        layer.weight = torch.ones(4, 6)


@pytest.mark.parametrize("module", [nn.Linear(4, 4), nn.RNN(4, 4)])
def test_assigning_a_parameter_is_assigning_its_value(module: nn.Module) -> None:
    name = "weight" if isinstance(module, nn.Linear) else "weight_hh_l0"
    register(module, {name: ZeroDiagonal()})
    stored, value = module.get_parameter(f"parametrizations.{name}.original"), nn.Parameter(torch.ones(4, 4).tril(-1))
    setattr(module, name, value)
    assert torch.equal(getattr(module, name), value)
    assert module.get_parameter(f"parametrizations.{name}.original") is stored
    assert name not in dict(module.named_parameters())
    with pytest.raises(ValueError, match="needs every entry on the main diagonal to be 0"):
        setattr(module, name, nn.Parameter(torch.ones(4, 4)))
    module.extra = nn.Parameter(torch.ones(1))
    assert "extra" in dict(module.named_parameters())
    module(torch.ones(1, 4))


def test_after_removal_beside_another_tensor_plain_attributes_still_work() -> None:
    layer = fused(ZeroDiagonal)
    register_parametrization(layer, "bias", Doubled())
    remove_parametrizations(layer, "weight")
    prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]  # moves the tensor to a plain attribute
    assert int((layer.weight == 0).sum()) >= 12
    assert not hasattr(layer, "absent")


class Abstract(nn.Linear, ABC):
    pass


def test_an_abc_layer_works() -> None:
    layer: Any = fuse(register_parametrization(Abstract(6, 4), "weight", Diagonal()))
    assert explain(layer).product == "elementwise"
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    remove_parametrizations(layer, "weight")
    assert type(layer) is Abstract


def test_a_class_may_be_derived_from_a_constrained_one_and_an_abstract_one() -> None:
    layer = fused(Diagonal)
    layer.__class__ = type(layer.__class__)("Both", (type(layer), ABC), {})  # as the library higher does
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))


@every
def test_a_functional_call_with_the_name_of_the_weight_is_refused(make: Callable[[], Parametrization]) -> None:
    model: Any = nn.Sequential(fused(make))
    expected, before = model(INPUTS), copy.deepcopy(model.state_dict())
    value = model[0].weight.detach().requires_grad_()
    with pytest.raises(RuntimeError) as error:
        functional_call(model, {"0.weight": value}, INPUTS)
    assert "Pass a value for 'parametrizations.weight.original'" in str(error.value.__cause__ or error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(model(INPUTS), expected)
    stored = model[0].parametrizations.weight.original.detach().requires_grad_()
    output = functional_call(model, {"0.parametrizations.weight.original": stored}, INPUTS)
    torch.testing.assert_close(output, expected)
    assert torch.autograd.grad(output.sum(), stored)[0].any()


def test_a_deep_copy_uses_its_own_weight_while_cached() -> None:
    layer = fused(ZeroDiagonal)
    with parametrize.cached():
        weight = layer.weight
        assert layer.weight is weight
        twin = copy.deepcopy(layer)
        with torch.no_grad():
            twin.parametrizations.weight.original.mul_(2)
        assert torch.equal(twin.weight, 2 * weight)


def test_while_cached_a_layer_never_gets_the_weight_of_a_deleted_one() -> None:
    with parametrize.cached():
        for _ in range(50):
            layer = fused(ZeroDiagonal)
            assert torch.equal(layer.weight, layer.parametrizations.weight())
            del layer


def test_while_cached_assigning_replaces_the_weight() -> None:
    layer = fused(ZeroDiagonal)
    with parametrize.cached():
        assert bool(layer.weight.any())
        layer.weight = torch.zeros(4, 6)
        assert not bool(layer.weight.any())
        assert layer.weight is layer.weight


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "load": lambda layer, other: layer.load_state_dict(other.state_dict()),
    "assign": lambda layer, other: layer.load_state_dict(other.state_dict(), assign=True),
    "load plain": lambda layer, other: layer.load_state_dict(bake(other).state_dict()),
    "load a model": lambda layer, other: nn.Sequential(layer).load_state_dict(nn.Sequential(other).state_dict()),
    "reset": lambda layer, _: layer.reset_parameters(),
    "convert": lambda layer, _: nn.Sequential(layer).double(),
    "register on top": lambda layer, _: register(layer, {"weight": Doubled()}),
}


@every
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_while_cached_a_change_of_the_layer_replaces_its_weight(
    change: Callable[[Any, Any], object], make: Callable[[], Parametrization]
) -> None:
    layer = fused(make)
    other = copy.deepcopy(layer)
    other.reset_parameters()
    with parametrize.cached(), torch.no_grad():
        layer(INPUTS)
        before = layer.weight
        change(layer, other)
        assert layer.weight is not before
        assert torch.equal(layer.weight, layer.parametrizations.weight())
        assert layer.weight is layer.weight
        inputs = INPUTS.to(layer.bias)
        torch.testing.assert_close(layer(inputs), dense_output(layer, inputs))


class OwnCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = register(nn.Linear(4, 4), {"weight": [Diagonal(), NegExpDiagonal()]})

    @override
    def forward(self, input: Tensor) -> Tensor:
        with parametrize.cached():
            output: Tensor = input + self.linear(self.linear(input))
            return output


@of_the_compiler
def test_compiled_blocks_with_a_cache_of_their_own_compile_once() -> None:
    torch.compiler.reset()
    counter, blocks = Counter(), [OwnCache() for _ in range(4)]
    for block in blocks:
        block.compile(backend=counter, fullgraph=True)
    for block in blocks:
        torch.testing.assert_close(block(torch.ones(2, 4)), block.forward(torch.ones(2, 4)))
    assert counter.graphs == 1


def test_pickling_is_refused_with_advice() -> None:
    with pytest.raises(RuntimeError, match=r"cannot be pickled.* Save its state_dict\(\), or pickle a plain copy"):
        torch.save(fused(Diagonal), "/dev/null")


def test_scripting_is_refused_with_advice() -> None:
    model = nn.Sequential(fused(Diagonal), nn.ReLU())
    with pytest.raises(
        RuntimeError, match=r"needs plain modules, .* Got ParametrizedLinear. .* torch.jit.script\(bake"
    ):
        torch.jit.script(model)
    torch.testing.assert_close(torch.jit.script(bake(model))(INPUTS), model(INPUTS))


def test_models_of_fused_layers_stack() -> None:
    models = [nn.Sequential(fused(Diagonal), nn.Linear(4, 2)) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        output: Tensor = torch.func.functional_call(models[0], (parameters, buffers), (INPUTS,))
        return output

    together = torch.func.vmap(call)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([model(INPUTS) for model in models]))


@every
def test_fx_sees_a_leaf(make: Callable[[], Parametrization]) -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(fused(make), nn.ReLU())).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "call_module", "output"]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6, 6))

    @override
    def forward(self, input: Tensor) -> Tensor:
        return input @ self.scale


def test_fx_traces_through_a_module_with_a_constrained_parameter_of_its_own() -> None:
    model = register(Scaled(), {"scale": ZeroDiagonal()})
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(INPUTS), model(INPUTS))
    with parametrize.cached():
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(INPUTS), model(INPUTS))
