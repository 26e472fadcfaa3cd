"""`tune`: its measurements, its choice, and unchanged models. No test asserts a time."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, explain, masks, register, tune
from tests.layers import of_the_compiler

BATCH = torch.linspace(-1, 1, 5 * 8).view(5, 8)


def one_of_each() -> Any:
    layers = [nn.Linear(8, 8) for _ in range(6)]
    model = nn.Sequential(*layers, nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    rules: dict[str, Any] = {
        "0.weight": Diagonal(),
        "1.weight": ZeroDiagonal(),
        "2.weight": NegExpDiagonal(),
        "3.weight": MaskedSparse(masks.random(density=0.3)),
        "4.weight": MaskedSparse(masks.block_diagonal(2)),
        "5.weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
    }
    return register(model, rules)


WAYS = {
    "0.weight": {"dense", "elementwise"},
    "1.weight": {"dense", "replaced-diagonal"},
    "2.weight": {"dense", "replaced-diagonal"},
    **{f"{layer}.weight": {"dense", "strips", "csr"} for layer in (3, 4, 5)},
}


def timed_by_product(monkeypatch: pytest.MonkeyPatch, layer: nn.Module, seconds: dict[str, float]) -> list[str]:
    """Let only backward passes of a layer take time, as long as its product says. Return the products in order."""
    taken: list[str] = []
    grad = torch.autograd.grad

    def counted(*arguments: Any, **named: Any) -> Any:
        taken.append(explain(layer).product)
        return grad(*arguments, **named)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(time, "perf_counter", lambda: sum(seconds[product] for product in taken))
    return taken


def test_the_order_of_the_ways_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = register(nn.Linear(8, 8), {"weight": MaskedSparse(masks.random(density=0.3))})
    taken = timed_by_product(monkeypatch, layer, {"dense": 1, "strips": 1, "csr": 1})
    tune(layer, BATCH)
    rounds = [tuple(taken[start : start + 3]) for start in range(0, len(taken), 3)]
    assert len(rounds) > 3
    assert len(set(rounds)) > 1
    assert {frozenset(turn) for turn in rounds} == {frozenset(("dense", "strips", "csr"))}


def test_every_way_of_every_layer_is_timed_and_the_fastest_is_taken() -> None:
    model = one_of_each()
    rows = tune(model, BATCH).rows
    assert {row.name: set(row.milliseconds) for row in rows} == WAYS
    for row in rows:
        layer = model.get_submodule(row.name.removesuffix(".weight"))
        assert row.chosen == explain(layer).product == min(row.milliseconds, key=row.milliseconds.__getitem__)


@pytest.mark.parametrize(("seconds", "chosen"), [((3, 2, 1), "csr"), ((2, 1, 3), "strips"), ((1, 2, 3), "dense")])
def test_the_way_with_the_smallest_median_is_taken(
    seconds: tuple[float, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = register(nn.Linear(8, 8), {"weight": MaskedSparse(masks.random(density=0.3))})
    times = dict(zip(("dense", "strips", "csr"), seconds, strict=True))
    timed_by_product(monkeypatch, layer, times)
    (row,) = tune(layer, BATCH).rows
    assert row.chosen == chosen
    assert row.milliseconds == {way: 1000 * time for way, time in times.items()}
    assert explain(copy.deepcopy(layer)).product == chosen


def test_nothing_else_changes() -> None:
    model = one_of_each().train()
    model(BATCH).sum().backward()
    model[6].eval()
    before = copy.deepcopy(model)
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    parameters, state_of_random = list(model.parameters()), torch.random.get_rng_state()
    tune(model, BATCH)
    assert torch.equal(torch.random.get_rng_state(), state_of_random)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(one, other.grad) for one, other in zip(gradients, parameters, strict=True))
    for one, other in zip(model.modules(), before.modules(), strict=True):
        assert one.training == other.training
        assert not one._forward_pre_hooks
    state, expected = model.state_dict(), before.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in state)
    torch.testing.assert_close(model.eval()(BATCH), before.eval()(BATCH))


def test_a_model_that_fails_is_unchanged() -> None:
    model: Any = one_of_each()
    products = [explain(layer) for layer in model[:6]]
    with pytest.raises(RuntimeError, match="needs an input of shape"):
        tune(model, BATCH[:, :3])
    assert [explain(layer) for layer in model[:6]] == products
    assert not any(layer._forward_pre_hooks for layer in model)


def test_a_failing_way_leaves_every_layer_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MaskedSparse._rearrange
    model: Any = one_of_each()
    products = [explain(layer) for layer in model[:6]]
    last = model[5].parametrizations.weight[0]

    def _rearrange(self: MaskedSparse) -> None:
        if self is last and self.product != "auto":
            raise MemoryError("no room")
        made(self)

    monkeypatch.setattr(MaskedSparse, "_rearrange", _rearrange)
    with pytest.raises(MemoryError, match="no room"):
        tune(model, BATCH)
    assert [explain(layer) for layer in model[:6]] == products


def test_a_layer_that_the_model_does_not_call_is_named_and_stays() -> None:
    model: Any = nn.ModuleDict({"used": nn.Linear(8, 8), "spare": nn.Linear(8, 8)})
    model.forward = lambda inputs: model["used"](inputs)
    register(model, {"*.weight": MaskedSparse(masks.random(density=0.3))})
    used, spare = tune(model, BATCH).rows
    assert set(used.milliseconds) == {"dense", "strips", "csr"}
    assert (spare.name, spare.milliseconds, spare.chosen) == ("spare.weight", {}, "dense")


def test_a_layer_that_is_called_by_name_is_timed() -> None:
    layer = register(nn.Linear(8, 8), {"weight": ZeroDiagonal()})
    (row,) = tune(layer, input=BATCH).rows
    assert row.milliseconds.keys() == {"dense", "replaced-diagonal"}


def test_layers_that_are_not_fused_have_no_row() -> None:
    layer: Any = register_parametrization(nn.Linear(8, 8), "weight", ZeroDiagonal())
    assert tune(nn.Sequential(layer, nn.Linear(8, 8)), BATCH).rows == ()


class Counted:
    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any) -> Tensor:
        self.calls += 1
        return self.function(*arguments)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(8, 8)

    @override
    def forward(self, state: Tensor, *, steps: int) -> Tensor:
        with parametrize.cached():
            for _ in range(steps):
                state = self.step(state).tanh()
        return state


@pytest.mark.parametrize(("steps", "timed"), [(3, 3), (50, 16)])
def test_a_loop_is_timed_as_a_loop(steps: int, timed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = register(Loop(), {"step.weight": ZeroDiagonal()})
    builds, products = Counted(ZeroDiagonal.forward), Counted(nn.functional.linear)
    monkeypatch.setattr(ZeroDiagonal, "forward", lambda self, x: builds(self, x))
    monkeypatch.setattr(nn.functional, "linear", products)
    loops = timed_by_product(monkeypatch, model.step, {"dense": 1, "replaced-diagonal": 1})
    tune(model, BATCH, steps=steps)
    assert loops
    assert builds.calls == 1 + len(loops)
    assert products.calls == steps + timed * len(loops)


def test_each_loop_builds_where_tune_is_called_inside_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = register(nn.Linear(8, 8), {"weight": ZeroDiagonal()})
    builds, products = Counted(ZeroDiagonal.forward), Counted(nn.functional.linear)
    monkeypatch.setattr(ZeroDiagonal, "forward", lambda self, x: builds(self, x))
    monkeypatch.setattr(nn.functional, "linear", products)
    with torch.no_grad(), parametrize.cached():
        tune(layer, BATCH)
    assert builds.calls == products.calls > 1


class Scaled(nn.Linear):
    """Has a parameter that its product does not use."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.scale = nn.Parameter(torch.ones(()))


def test_a_parameter_that_the_product_does_not_use_is_allowed() -> None:
    (row,) = tune(register(Scaled(), {"weight": ZeroDiagonal()}), BATCH).rows
    assert set(row.milliseconds) == {"dense", "replaced-diagonal"}


class Twice(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / 2


def test_a_layer_with_a_third_party_parametrization_has_one_way() -> None:
    layer = register(nn.Linear(8, 8), {"weight": Twice()})
    (row,) = tune(layer, BATCH).rows
    assert (row.milliseconds, row.chosen) == ({}, "dense")


def calling(call: Callable[[Any, Tensor], Tensor], step: nn.Module | None = None) -> Any:
    """A model with one constrained layer, called by the given function."""
    model: Any = nn.ModuleDict({"step": nn.Linear(8, 8)})
    model.forward = lambda x: call(model["step"], x)
    return register(model, {"step.weight": ZeroDiagonal() if step is None else step})


def under_autocast(layer: nn.Module, input: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        halved: Tensor = layer(nn.functional.linear(input, torch.eye(8)))
    return halved


def test_a_layer_is_timed_under_the_autocast_that_the_model_itself_switches_on() -> None:
    (row,) = tune(calling(under_autocast, MaskedSparse(masks.lower_triangular())), BATCH).rows
    assert set(row.milliseconds) == {"dense", "strips"}  # CSR does not support half precision


def without_gradients(layer: nn.Module, input: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = layer(input)
    return output


def in_inference_mode(layer: nn.Module, input: Tensor) -> Tensor:
    with torch.inference_mode():
        output: Tensor = layer(2 * input)
    return output


@pytest.mark.parametrize("call", [without_gradients, in_inference_mode])
def test_a_layer_called_without_gradients_is_timed_only_forward(
    call: Callable[[nn.Module, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    backward: list[int] = []
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: backward.append(1))
    (row,) = tune(calling(call), BATCH).rows
    assert set(row.milliseconds) == {"dense", "replaced-diagonal"}
    assert not backward


def test_a_layer_called_only_in_a_transform_is_named_and_stays() -> None:
    (row,) = tune(calling(lambda layer, x: torch.func.vmap(layer)(x)), BATCH).rows
    assert (row.milliseconds, row.chosen) == ({}, "dense")


def test_objects_held_by_hooks_are_not_copied() -> None:
    class Holder:
        def __deepcopy__(self, memo: object) -> Holder:
            raise AssertionError("a copy of what may be a whole model")

        def see(self, *_: object) -> None: ...

    layer: Any = register(nn.Linear(8, 8), {"weight": ZeroDiagonal()})
    layer.register_forward_hook(Holder().see)
    layer.parametrizations.weight.register_forward_pre_hook(Holder().see)
    (row,) = tune(layer, BATCH).rows
    assert set(row.milliseconds) == {"dense", "replaced-diagonal"}


def test_attributes_added_to_a_layer_are_not_copied() -> None:
    layer: Any = register(nn.Linear(8, 8), {"weight": ZeroDiagonal()})
    layer.lock, layer.forward = threading.Lock(), Mock(wraps=layer.forward)
    (row,) = tune(layer, BATCH).rows
    assert set(row.milliseconds) == {"dense", "replaced-diagonal"}
    assert layer.forward.call_count == 1


class Learner(nn.Module):
    """Runs a backward pass in its forward, like energy-based models."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs)
        output.square().sum().backward()  # type: ignore[no-untyped-call]
        return output.detach()


def test_gradients_of_a_model_with_its_own_backward_pass_stay() -> None:
    model = register(Learner(), {"linear.weight": ZeroDiagonal()})
    for _ in range(2):
        gradients = [parameter.grad for parameter in model.parameters()]
        before = copy.deepcopy(gradients)
        tune(model, BATCH)
        assert all(parameter.grad is one for parameter, one in zip(model.parameters(), gradients, strict=True))
        assert str(gradients) == str(before)
        model(BATCH)


@of_the_compiler
def test_layers_of_a_compiled_model_are_timed() -> None:
    model = register(nn.Sequential(nn.Linear(8, 8)), {"0.weight": ZeroDiagonal()})
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    compiled(BATCH)
    (row,) = tune(compiled, BATCH).rows
    assert set(row.milliseconds) == {"dense", "replaced-diagonal"}


def test_without_gradients_only_the_forward_pass_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    backward: list[int] = []
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: backward.append(1))
    model = one_of_each()
    with torch.no_grad():
        tune(model, BATCH)
    assert not backward
    tune(model, BATCH)
    assert backward


def test_the_rows_print_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = register(nn.Linear(8, 8), {"weight": ZeroDiagonal()})
    timed_by_product(monkeypatch, layer, {"dense": 0.002, "replaced-diagonal": 0.001})
    tuning = tune(nn.Sequential(layer), BATCH)
    assert str(tuning).splitlines() == [
        "name      milliseconds                  chosen",
        "0.weight  dense 2, replaced-diagonal 1  replaced-diagonal",
    ]
    assert tuning._repr_html_().count("<tr>") == 2


def test_a_non_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"tune needs a model. Got Tensor. Pass a torch.nn.Module."):
        tune(BATCH)  # type: ignore[arg-type]
