"""A fused layer runs everything that PyTorch would run to compute the weight: hooks and replaced methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.utils.parametrize import ParametrizationList, cached
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from parametrizations import NegExpDiagonal, Parametrization, bake, dense_gradients, explain, register
from tests.layers import INPUTS, PRODUCTS, dense_output, every, fused, of_the_compiler

RESET = torch.zeros(4, 6)


class Own(ParametrizationList):
    @override
    def forward(self) -> Tensor:
        return RESET


def replace_output(*_: object) -> Tensor:
    return RESET


def replace_class(chain: nn.Module) -> None:
    chain.__class__ = Own


def replace_forward(chain: nn.Module) -> None:
    chain.forward = replace_output


@contextmanager
def global_hook(_: nn.Module) -> Iterator[None]:
    def on_lists(part: nn.Module, *_: object) -> Tensor | None:
        return RESET if isinstance(part, ParametrizationList) else None

    hook: Any = on_lists
    with modules.register_module_forward_hook(hook):
        yield


CLAIMS: dict[str, Callable[[Any], Any]] = {
    "a hook of the list": lambda chain: chain.register_forward_hook(replace_output),
    "a hook of a step": lambda chain: chain[0].register_forward_hook(replace_output),
    "a hook of all modules": global_hook,
    "a replaced forward of the list": replace_forward,
    "a replaced forward of a step": lambda chain: replace_forward(chain[0]),
    "a class derived from the list": replace_class,
}


@pytest.mark.parametrize("block", [nullcontext, cached], ids=["once", "in a loop"])
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
@every
def test_a_claim_on_the_weight_replaces_it_in_the_layer(
    make: Callable[[], Parametrization], claim: Callable[[Any], Any], block: Callable[[], Any]
) -> None:
    layer = fused(make)
    handle = claim(layer.parametrizations.weight)
    with block(), handle if hasattr(handle, "__exit__") else nullcontext():
        torch.testing.assert_close(layer(INPUTS), layer.bias.expand(2, 4), rtol=0, atol=0)
        assert explain(layer) == ("dense", "a hook, or a replaced forward, runs when the weight is computed")


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_on_one_of_two_constraints_replaces_the_weight(claim: Callable[[Any], Any]) -> None:
    layer = fused(PRODUCTS["Diagonal"])
    register(layer, {"weight": NegExpDiagonal()})
    before = layer.weight
    handle = claim(layer.parametrizations.weight)
    with handle if hasattr(handle, "__exit__") else nullcontext():
        torch.testing.assert_close(layer(INPUTS), dense_output(layer))
        assert not layer.weight.equal(before)


@pytest.mark.filterwarnings("ignore:Full backward hook")  # the list has no inputs
@every
def test_a_backward_hook_of_the_list_runs(make: Callable[[], Parametrization]) -> None:
    layer: Any = fused(make)
    seen: list[int] = []
    layer.parametrizations.weight.register_full_backward_hook(lambda *_: seen.append(1))
    layer(INPUTS).sum().backward()
    assert seen == [1]


@every
def test_the_structured_product_returns_after_the_hook_is_removed(make: Callable[[], Parametrization]) -> None:
    layer = fused(make)
    before = explain(layer)
    layer.parametrizations.weight.register_forward_hook(replace_output).remove()
    assert explain(layer) == before


@every
def test_the_hooks_of_dense_gradients_leave_the_product(
    make: Callable[[], Parametrization], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = fused(make)
    expected, before = dense_output(layer), explain(layer)
    with dense_gradients(layer):
        assert explain(layer) == before
        monkeypatch.setattr(type(layer.parametrizations.weight[0]), "forward", None)
        torch.testing.assert_close(layer(INPUTS), expected)


@every
def test_the_hooks_of_a_flop_counter_leave_the_product(make: Callable[[], Parametrization]) -> None:
    layer = fused(make)
    before = explain(layer)
    with FlopCounterMode(display=False):
        assert explain(layer) == before


@of_the_compiler
@every
def test_a_hook_runs_in_a_compiled_layer(make: Callable[[], Parametrization]) -> None:
    layer = fused(make)
    layer.parametrizations.weight.register_forward_hook(replace_output)
    compiled: Any = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(INPUTS), layer.bias.expand(2, 4))


@every
def test_a_wrapped_forward_works_after_baking(make: Callable[[], Parametrization]) -> None:
    model = nn.Sequential(fused(make))
    inner, expected = model[0].forward, model(INPUTS)
    model[0].forward = lambda x: inner(x)
    bake(model, inplace=True)
    torch.testing.assert_close(model(INPUTS), expected)
