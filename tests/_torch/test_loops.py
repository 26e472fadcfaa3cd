"""Memoisation inside `parametrize.cached`, in a loop over time, and the changes that clear it."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.parametrize import cached, register_parametrization
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, fuse, masks, register
from parametrizations._models import layer as layers
from parametrizations._products.strips import Piece
from parametrizations._torch.loops import once
from tests.layers import Counter, Doubled, of_the_compiler

N, STEPS = 6, 60
STORED = "parametrizations.weight.original"
Steps = Callable[[], list[nn.Module]]

LAYERS: dict[str, Steps] = {
    "Diagonal": lambda: [Diagonal()],
    "Diagonal-dense": lambda: [Diagonal(product="dense")],
    "ZeroDiagonal": lambda: [ZeroDiagonal()],
    "ZeroDiagonal-replaced": lambda: [ZeroDiagonal(product="replaced-diagonal")],
    "NegExpDiagonal": lambda: [NegExpDiagonal()],
    "NegExpDiagonal-replaced": lambda: [NegExpDiagonal(product="replaced-diagonal")],
    "MaskedSparse-dense": lambda: [MaskedSparse(masks.random(density=0.5), product="dense")],
    "MaskedSparse-strips": lambda: [MaskedSparse(masks.lower_triangular(), product="strips")],
    "MaskedSparse-blocks": lambda: [MaskedSparse(masks.block_diagonal(2), product="strips")],
    "MaskedSparse-CSR": lambda: [MaskedSparse(masks.random(density=0.5), product="csr")],
    "Diagonal, NegExp": lambda: [Diagonal(), NegExpDiagonal()],
    "dense, NegExp": lambda: [MaskedSparse(masks.lower_triangular(), product="dense"), NegExpDiagonal()],
    "strips, NegExp": lambda: [MaskedSparse(masks.lower_triangular(), product="strips"), NegExpDiagonal()],
    "blocks, NegExp": lambda: [MaskedSparse(masks.block_diagonal(2), product="strips"), NegExpDiagonal()],
    "CSR, Zero": lambda: [MaskedSparse(masks.random(density=0.5), product="csr"), ZeroDiagonal()],
    "that needs the weight": lambda: [ZeroDiagonal(), NegExpDiagonal()],
    "foreign": lambda: [Diagonal(), Doubled()],
}
every = pytest.mark.parametrize("steps", LAYERS.values(), ids=LAYERS)


def fused(steps: Steps, dtype: torch.dtype = torch.float64) -> Any:
    layer = nn.Linear(N, N, dtype=dtype)
    for step in steps():
        register_parametrization(layer, "weight", step)
    with torch.no_grad():
        layer.get_parameter(STORED).mul_(0.3)
    return fuse(layer)


def inputs(batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-1, 1, batch * N, dtype=dtype).view(batch, N)


def rolled(step: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    state, total = start, start.new_zeros(())
    for _ in range(STEPS):
        state = torch.tanh(step(state) + start)
        total = total + state.square().sum()
    return total


def by_hand(layer: Any) -> list[Tensor]:
    """The same loop with the dense weight."""
    weight = layer.weight
    total = rolled(lambda state: F.linear(state, weight, layer.bias), inputs())
    return [total.detach(), *torch.autograd.grad(total, list(layer.parameters()))]


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, layer: Any) -> Iterator[list[str]]:
    """Count the computations of weights, entries and operands."""
    computed: list[str] = []

    def count(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def counting(*arguments: Any) -> Any:
            computed.append(name)
            return plain(*arguments)

        monkeypatch.setattr(owner, name, counting)

    for kind in {type(step) for step in layer.parametrizations.weight}:
        count(kind, "forward")
    count(Piece, "filled")  # no other form computes an operand
    count(layers, "entries_of")
    yield computed
    monkeypatch.undo()


@every
def test_a_loop_computes_once_and_has_the_values_and_gradients_of_the_loop_by_hand(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = fused(steps)
    unfused = by_hand(layer)
    with counted(monkeypatch, layer) as computed, parametrize.cached():
        total = rolled(layer, inputs())
        got = [total.detach(), *torch.autograd.grad(total, list(layer.parameters()))]
    for one, other in zip(got, unfused, strict=True):
        torch.testing.assert_close(one, other)
    assert computed.count("forward") in (0, 1, len(steps()))  # only the first, if the others change its entries
    assert all(computed.count(name) == 1 for name in computed if name != "forward")


def doubled(layer: Any) -> None:
    with torch.no_grad():
        layer.get_parameter(STORED).mul_(2)


def assigned(layer: Any) -> None:
    layer.get_parameter(STORED).mul_(0.5)
    weight = layer.parametrizations.weight()
    layer.get_parameter(STORED).mul_(2)
    layer(inputs())
    layer.weight = weight


def given_other_data(layer: Any) -> None:
    layer.get_parameter(STORED).data = layer.get_parameter(STORED).data * 2


def loaded(layer: Any) -> None:
    state = {name: tensor if "extra" in name else tensor * 2 for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(state)


def loaded_by_assignment(layer: Any) -> None:
    state = {name: tensor if "extra" in name else tensor * 2 for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)


def stepped(layer: Any) -> None:
    with torch.enable_grad():
        layer(inputs()).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()


def reset(layer: Any) -> None:
    layer.reset_parameters()


def halved_in_precision(layer: Any) -> None:
    layer.half().double()


CHANGES = [
    doubled,
    assigned,
    given_other_data,
    loaded,
    loaded_by_assignment,
    stepped,
    reset,
    halved_in_precision,
]


@every
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_inside_the_block_are_noticed(steps: Steps, change: Callable[[Any], None], swap: bool) -> None:
    layer = fused(steps)
    if change is assigned and steps in (LAYERS["that needs the weight"], LAYERS["foreign"]):
        pytest.skip("no weight keeps both rules, or there is no inverse")
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        with parametrize.cached():
            with torch.no_grad():  # swap_tensors refuses a tensor that a live graph uses
                before, _ = layer(inputs()), layer.weight
                change(layer)
                output, weight = layer(inputs()), layer.weight
            assert not torch.equal(output, before)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    torch.testing.assert_close(weight, layer.weight)
    torch.testing.assert_close(output, F.linear(inputs(), layer.weight, layer.bias))


@every
@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_gradients_work_after_a_pass_without_gradients(steps: Steps, without: type[torch.no_grad]) -> None:
    layer = fused(steps)
    with parametrize.cached():
        for _ in range(2):
            with without():
                layer(inputs())
                assert not layer.weight.requires_grad
        got = torch.autograd.grad(layer(inputs()).square().sum(), list(layer.parameters()))
        weight = layer.weight
    assert weight.requires_grad
    expected = torch.autograd.grad(
        F.linear(inputs(), layer.weight, layer.bias).square().sum(), list(layer.parameters())
    )
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@every
def test_training_in_one_block_is_training_without_it(steps: Steps) -> None:
    within, without = (fused(steps) for _ in range(2))
    without.load_state_dict(within.state_dict())

    def train(layer: Any) -> None:
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(layer(inputs())).square().sum().backward()
            optimizer.step()

    with parametrize.cached():
        train(within)
    train(without)
    for one, other in zip(within.parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@every
def test_results_without_gradients_are_computed_again_after_a_step(steps: Steps) -> None:
    layer = fused(steps)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with parametrize.cached():
        loss = layer(inputs()).square().sum()
        with torch.no_grad():
            layer(inputs())
            loss.backward()
            optimizer.step()
            after = layer(inputs())
    torch.testing.assert_close(after, F.linear(inputs(), layer.weight, layer.bias))


@every
def test_a_weight_that_was_read_is_recomputed_after_a_step(steps: Steps) -> None:
    layer = fused(steps)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with parametrize.cached():
        with torch.no_grad():
            before = layer.weight
        layer(inputs()).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            after = layer.weight
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, layer.weight.detach())


def checkpointed(reentrant: bool, part: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    return checkpoint(part, x, use_reentrant=reentrant)


PLACES = ["around", "inside", "both", "around the backward pass, too"]


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("read", [False, True], ids=["by the layer", "by name"])
@every
def test_activation_checkpointing_gives_the_same_gradients(
    steps: Steps, read: bool, place: str, reentrant: bool
) -> None:
    layer = fused(steps)
    stored = layer.get_parameter(STORED)

    def part(x: Tensor) -> Tensor:
        with cached() if place in ("inside", "both") else nullcontext():
            for _ in range(3):
                x = torch.tanh(F.linear(x, layer.weight, layer.bias) if read else layer(x))
        return x

    x = torch.linspace(-1, 1, 2 * N, dtype=torch.float64).view(2, N).requires_grad_()
    expected = torch.autograd.grad(part(part(layer(x))).sum(), (x, stored))
    with cached() if place != "inside" else nullcontext():
        output = checkpointed(reentrant, part, checkpointed(reentrant, part, layer(x)))
        if place == PLACES[-1]:
            output.sum().backward()
    if place != PLACES[-1]:
        output.sum().backward()
    torch.testing.assert_close((x.grad, stored.grad), expected)


def test_the_step_of_a_fused_optimizer_is_not_noticed_as_in_pytorch() -> None:
    theirs: Any = parametrizations.orthogonal(nn.Linear(N, N, dtype=torch.float64))
    for layer in (fused(LAYERS["ZeroDiagonal"]), theirs):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, fused=True)
        with parametrize.cached():
            before = layer(inputs())
            before.square().sum().backward()
            layer.bias.grad = None
            optimizer.step()
            assert torch.equal(layer(inputs()), before)
        assert not torch.equal(layer(inputs()), before)


@every
def test_memoised_results_are_freed_with_the_block_and_the_graph(steps: Steps) -> None:
    layer = fused(steps)
    gc.disable()
    try:
        with parametrize.cached():
            loss, weight = layer(inputs()).sum(), weakref.ref(layer.weight)
        loss.backward()
        del loss
        assert weight() is None
    finally:
        gc.enable()


@every
def test_a_weight_frozen_for_a_while_trains_afterwards(steps: Steps) -> None:
    layer = fused(steps)
    with parametrize.cached():
        for trained in (True, False, True):
            layer.requires_grad_(trained)
            assert layer(inputs()).requires_grad == trained
            assert layer.weight.requires_grad == trained
        got = torch.autograd.grad(layer(inputs()).square().sum(), layer.get_parameter(STORED))
    torch.testing.assert_close(got, torch.autograd.grad(layer(inputs()).square().sum(), layer.get_parameter(STORED)))


@every
def test_a_nested_call_with_other_values_uses_them(steps: Steps) -> None:
    layer = fused(steps)
    other = {STORED: layer.get_parameter(STORED).detach() * 2}
    expected = functional_call(layer, other, (inputs(),)), layer(inputs())
    with parametrize.cached():
        for _ in range(2):
            torch.testing.assert_close(layer(inputs()), expected[1])
            torch.testing.assert_close(functional_call(layer, other, (inputs(),)), expected[0])
        got = torch.func.grad(lambda x: functional_call(layer, {STORED: x}, (inputs(),)).square().sum())(other[STORED])
    wanted = torch.func.grad(lambda x: functional_call(layer, {STORED: x}, (inputs(),)).square().sum())(other[STORED])
    torch.testing.assert_close(got, wanted)


class Reader(nn.Linear):
    """Reads its weight in ``forward``."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)


def require_calls_with_other_numbers(layer: Any) -> None:
    def total(x: Tensor) -> Tensor:
        outputs = (functional_call(layer, {STORED: k * x}, (inputs(),)) for k in (1, 2))
        return sum((output.square().sum() for output in outputs), x.new_zeros(()))

    x = layer.get_parameter(STORED).detach()
    expected = torch.func.grad(total)(x)
    with parametrize.cached():
        torch.testing.assert_close(torch.func.grad(total)(x), expected)


@every
def test_a_transform_that_calls_with_other_values_uses_them(steps: Steps) -> None:
    require_calls_with_other_numbers(fused(steps))


def test_a_transform_that_reads_the_weight_of_other_values_uses_them() -> None:
    require_calls_with_other_numbers(register(Reader(N, N, dtype=torch.float64), {"weight": Diagonal()}))


@every
def test_results_are_right_after_a_transform(steps: Steps) -> None:
    layer = fused(steps)
    wanted = by_hand(layer)
    with parametrize.cached():
        for _ in range(2):
            torch.func.jacrev(layer)(inputs())
            torch.func.jacfwd(layer)(inputs())
            torch.func.vmap(layer)(inputs())
        total = rolled(layer, inputs())
        got = [total.detach(), *torch.autograd.grad(total, list(layer.parameters()))]
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@every
def test_autocast_may_be_switched_inside_the_block(steps: Steps) -> None:
    layer = fused(steps, torch.float32)
    x = inputs(dtype=torch.float32)

    def both() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
        return [half, layer(x)]

    expected = both()
    assert [output.dtype for output in expected] == [torch.bfloat16, torch.float32]
    with parametrize.cached():
        for _ in range(2):
            for one, other in zip(both(), expected, strict=True):
                torch.testing.assert_close(one, other)


@every
def test_copies_and_temporary_models_use_their_own_weights(steps: Steps) -> None:
    layer = fused(steps)
    with parametrize.cached():
        layer(inputs())
        twin = copy.deepcopy(layer)
        doubled(twin)
        for _ in range(20):
            made = fused(steps)
            torch.testing.assert_close(made(inputs()), F.linear(inputs(), made.parametrizations.weight(), made.bias))
            del made
        for one in (layer, twin):
            torch.testing.assert_close(one(inputs()), F.linear(inputs(), one.parametrizations.weight(), one.bias))


@every
def test_nothing_is_kept_after_the_block(steps: Steps) -> None:
    layer = fused(steps)
    with parametrize.cached():
        layer(inputs())
    kept = weakref.ref(layer.parametrizations.weight)
    del layer
    gc.collect()
    assert kept() is None


class Loop(nn.Module):
    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.linear = fused(steps, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            for _ in range(3):
                x = torch.tanh(self.linear(x))
        return x


@pytest.mark.slow
@of_the_compiler
@every
def test_compiled_loops_give_the_same_and_share_their_graph(steps: Steps) -> None:
    torch.compiler.reset()
    counter, x = Counter(), inputs(dtype=torch.float32)
    loops = [Loop(steps) for _ in range(2)]
    for loop in loops:
        compiled: Callable[[Tensor], Tensor] = torch.compile(loop, backend=counter, fullgraph=True)
        torch.testing.assert_close(compiled(x), loop(x))
        with parametrize.cached():
            torch.testing.assert_close(loop(x), compiled(x))
            torch.testing.assert_close(loop(x), compiled(x))


def test_recorded_values_are_not_memoised() -> None:
    layer = fused(LAYERS["Diagonal, NegExp"])
    with parametrize.cached():
        traced: Any = torch.jit.trace(layer, inputs())  # type: ignore[no-untyped-call]
        torch.testing.assert_close(layer(inputs()), traced(inputs()))
        layer(inputs())
        traced = torch.jit.trace(layer, inputs())  # type: ignore[no-untyped-call]
    doubled(layer)
    traced.load_state_dict(layer.state_dict())
    torch.testing.assert_close(traced(inputs()), layer(inputs()))


def test_proxies_are_not_memoised() -> None:
    layer = register(Reader(N, N, dtype=torch.float64), {"weight": Diagonal()})
    with parametrize.cached():
        graph: Callable[[Tensor], Tensor] = torch.fx.symbolic_trace(layer)
        torch.testing.assert_close(layer(inputs()), graph(inputs()))


def test_reused_memory_counts_as_a_change() -> None:
    x = torch.zeros(1000)
    with parametrize.cached():
        for _ in range(20):
            assert torch.equal(once("owner", x, x.clone), x)
            for _ in range(2):  # the second may reuse the memory of the first
                x.data = x + 1


def test_outside_a_block_everything_is_computed_again() -> None:
    x, computed = torch.ones(1), []
    for _ in range(2):
        assert once("owner", x, lambda: computed.append(1)) is None
    assert len(computed) == 2
    with parametrize.cached():
        for _ in range(2):
            assert once("owner", x, lambda: computed.append(1)) is None
        assert once("owner", x, lambda: x, "another kind") is x
    assert len(computed) == 3
