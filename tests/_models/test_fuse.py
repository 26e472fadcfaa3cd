"""Fused layers: origin, choice of the product, compiling, memory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    Parametrization,
    ZeroDiagonal,
    explain,
    fuse,
    masks,
    register,
)
from parametrizations.typing import Product
from tests.layers import INPUTS, Counter, Doubled, dense_output, every, fused, of_the_compiler
from tests.thresholds import without_mkl


@pytest.mark.parametrize("steps", [[Diagonal()], [Diagonal(), NegExpDiagonal()]], ids=len)
def test_a_buffer_as_weight_works_too(steps: list[Parametrization]) -> None:
    layer: Any = nn.Linear(6, 4)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    for step in steps:
        register_parametrization(layer, "weight", step)
    torch.testing.assert_close(fuse(layer)(INPUTS), dense_output(layer))
    assert explain(layer).product == "elementwise"


@every
def test_a_fused_layer_multiplies_through_its_parametrization(
    make: Callable[[], Parametrization], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = fused(make)
    expected = dense_output(layer)
    monkeypatch.setattr(type(layer.parametrizations.weight[0]), "forward", None)  # the weight is never materialised
    torch.testing.assert_close(layer(INPUTS), expected)


def test_fusing_twice_changes_nothing_and_plain_layers_stay() -> None:
    model = nn.Sequential(fused(Diagonal), nn.Linear(4, 4), nn.ReLU())
    before = [type(module) for module in model]
    fuse(fuse(model))
    assert [type(module) for module in model] == before
    assert type(model[1]) is nn.Linear


@every
def test_a_second_parametrization_that_needs_the_weight_makes_the_layer_dense(
    make: Callable[[], Parametrization],
) -> None:
    layer, neighbour = fused(make), fused(make)
    register_parametrization(layer, "weight", Unconstrained())
    assert explain(layer) == ("dense", "a later constraint needs the whole weight")
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    torch.testing.assert_close(neighbour(INPUTS), dense_output(neighbour))


class Own(nn.Linear):
    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 100


def test_a_layer_with_a_forward_of_its_own_keeps_it() -> None:
    layer: Any = fuse(register_parametrization(Own(6, 4), "weight", Diagonal()))
    torch.testing.assert_close(layer(INPUTS), dense_output(layer) + 100)
    assert explain(layer).why == "the layer is not fused"


def test_a_class_that_something_else_changed_is_refused_before_any_change() -> None:
    first, second = (register_parametrization(nn.Linear(4, 4), "weight", Diagonal()) for _ in range(2))
    second.__class__ = type("Sharded", (type(second),), {})
    before = type(first)
    with pytest.raises(
        ValueError, match=r"the class from register_parametrization. Got Sharded. Fuse before fully_shard"
    ):
        fuse(nn.Sequential(first, second))
    assert type(first) is before


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    @override
    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = x + self.linear.weight
        return weight


@pytest.mark.parametrize("attach", [fused, lambda make: register(nn.Linear(6, 4), {"weight": make()})])
def test_only_a_parametrization_of_this_library_is_asked_for_a_product(attach: Callable[..., Any]) -> None:
    layer = attach(LowRank)
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))


class Unconstrained(Parametrization):
    """Allows every matrix, and overrides the product."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, x, bias)


def chained(*steps: nn.Module) -> Any:
    layer = fused(lambda: steps[0])
    for step in steps[1:]:
        register_parametrization(layer, "weight", step)
    return layer


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("layer", "name", "why"),
    [
        (nn.Linear(3, 3), "dense", "the weight has no constraint"),
        (register_parametrization(nn.Linear(3, 3), "weight", Diagonal()), "dense", "the layer is not fused"),
        (fused(Diagonal), "elementwise", "one multiplication for each output"),
        (fused(lambda: Diagonal(product="dense")), "dense", "product='dense' is set"),
        (fused(ZeroDiagonal), "dense", "4 x 6: too small for replaced-diagonal"),
        (fused(ZeroDiagonal, 2048, 1024), "replaced-diagonal", "only blocks on the diagonal are copied"),
        (fused(ZeroDiagonal, 2048, 1024).half(), "dense", "csr and replaced-diagonal are for"),
        (fused(lambda: MaskedSparse(masks.random(density=0.01)), 1024, 1024), "csr", "1 % kept: only these"),
        (fused(lambda: MaskedSparse(masks.random(density=0.9)), 1024, 1024), "dense", "90 % kept: dense is faster"),
        (fused(lambda: MaskedSparse(masks.random(density=0.01), product="dense"), 1024, 1024), "dense", "product="),
        (fused(lambda: MaskedSparse(masks.block_diagonal(8)), 1024, 1024), "strips", "8 dense blocks in one batched"),
        (fused(lambda: MaskedSparse(masks.block_diagonal(8)), 1024, 1024).half(), "strips", "8 dense blocks in one"),
        (fused(lambda: MaskedSparse(masks.banded(64, 64)), 1024, 1024), "strips", r"\d+ dense strips over \d+ % of"),
        (fused(lambda: MaskedSparse(masks.random(density=0.3), product="strips")), "strips", r"\d dense strips? over"),
        (fused(lambda: MaskedSparse(masks.random(density=0.01)), 1024, 1024).half(), "dense", "csr and replaced"),
        (fused(lambda: MaskedSparse(torch.zeros(4, 6, dtype=torch.bool))), "dense", "4 x 6: too small for CSR"),
        (chained(Diagonal(), NegExpDiagonal()), "elementwise", "one multiplication for each output"),
        (chained(ZeroDiagonal(), NegExpDiagonal()), "dense", "a later constraint needs the whole weight"),
        (chained(Diagonal(), Doubled()), "dense", "a later constraint needs the whole weight"),
        (fused(Unconstrained), "own", "the constraint overrides linear"),
        (fused(Doubled), "dense", "the constraint is third-party"),
    ],
)
def test_explain_says_the_product_and_why(layer: nn.Module, name: str, why: str) -> None:
    taken = explain(layer)
    assert taken.product == name
    assert re.match(why, taken.why)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_inputs_says_so() -> None:
    assert explain(fused(lambda: MaskedSparse(masks.random(density=0.3)), 0, 4)) == (
        "dense",
        "the weight has no entries",
    )


class Block(nn.Module):
    def __init__(self, make: Callable[[], nn.Module] | None) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        if make is not None:
            fuse(register_parametrization(self.linear, "weight", make()))

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = input + self.linear(input).relu()
        return output


def graphs_of_twelve_blocks(make: Callable[[], nn.Module] | None, batches: tuple[int, ...]) -> int:
    torch.compiler.reset()
    counter, blocks = Counter(), [Block(make) for _ in range(12)]
    for block in blocks:
        block.compile(backend=counter, fullgraph=True)
    for batch in batches:
        output = torch.randn(batch, 64)
        for block in blocks:
            output = block(output)
        output.sum().backward()  # type: ignore[no-untyped-call]
    return counter.graphs


@pytest.mark.slow
@of_the_compiler
@every
def test_twelve_blocks_make_no_more_graphs_than_plain_ones(make: Callable[[], Parametrization]) -> None:
    assert graphs_of_twelve_blocks(make, (4,)) == graphs_of_twelve_blocks(None, (4,)) == 2
    assert graphs_of_twelve_blocks(make, (2, 3, 4)) <= graphs_of_twelve_blocks(None, (2, 3, 4))


@pytest.mark.slow
@of_the_compiler
@every
def test_the_default_compiler_gives_the_same(make: Callable[[], Parametrization]) -> None:
    torch.compiler.reset()
    layer = fused(make)
    compiled: Callable[[Tensor], Tensor] = torch.compile(layer, fullgraph=True)
    for batch in (2, 3, 5):
        inputs = torch.randn(batch, 6, requires_grad=True)
        outcome = [
            compiled(inputs),
            *torch.autograd.grad(compiled(inputs).square().sum(), [inputs, *layer.parameters()]),
        ]
        output = dense_output(layer, inputs)
        expected = [output, *torch.autograd.grad(output.square().sum(), [inputs, *layer.parameters()])]
        for one, other in zip(outcome, expected, strict=True):
            torch.testing.assert_close(one, other)


MILLION = """
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from parametrizations import Diagonal, fuse
def peak():  # not ru_maxrss, which a new process takes over from the one that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
n = 2**20
torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)).sum().backward()
torch.optim.Adam([nn.Parameter(torch.ones(1))])
before = peak()
with torch.device("meta"):
    layer = fuse(register_parametrization(nn.Linear(n, n), "weight", Diagonal()))
layer.to_empty(device="cpu")
with torch.no_grad():
    layer.parametrizations.weight.original.normal_()
    layer.bias.zero_()
optimizer = torch.optim.Adam(layer.parameters())
inputs = torch.ones(8, n)
layer(inputs).square().mean().backward()
optimizer.step()
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_million_features_take_an_adam_step_below_400_mb() -> None:
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True, timeout=120)
    assert 8 * 4 < float(done.stdout) < 400  # the inputs alone take 32 MB


@pytest.mark.parametrize("then", ["dense", "strips", "csr", "auto"])
@pytest.mark.parametrize("first", ["dense", "strips", "csr"])
def test_the_product_may_be_set_at_any_time(first: Product, then: Product) -> None:
    layer = fused(lambda: MaskedSparse(masks.random(density=0.3), product=first))
    mask, expected = layer.parametrizations.weight[0].mask, dense_output(layer)
    layer.parametrizations.weight[0].product = then
    named = {"auto": ("dense",)}.get(then, (then,))
    assert explain(layer).product in named
    assert f"product='{then}'" in repr(layer)
    assert torch.equal(layer.parametrizations.weight[0].mask, mask)
    torch.testing.assert_close(layer(INPUTS), expected)
    fresh = fused(lambda: MaskedSparse(masks.random(density=0.3)))
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh(INPUTS), expected)


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (Diagonal, "'auto' or 'dense' or 'elementwise'"),
        (ZeroDiagonal, "'auto' or 'dense' or 'replaced-diagonal'"),
        (lambda: MaskedSparse(masks.random(density=0.3)), "'auto' or 'dense' or 'strips' or 'csr'"),
    ],
)
def test_a_product_of_another_name_is_refused_and_changes_nothing(make: Callable[[], Any], allowed: str) -> None:
    layer = fused(make)
    before = explain(layer)
    with pytest.raises(ValueError, match=f"needs product to be {allowed}. Got 'fast'"):
        layer.parametrizations.weight[0].product = "fast"
    assert explain(layer) == before
    assert layer.parametrizations.weight[0].product == "auto"


def test_the_sparse_product_is_there_without_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = fused(lambda: MaskedSparse(masks.random(density=0.3), product="csr"))
    without_mkl(monkeypatch)
    assert explain(layer).product == "csr"
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
