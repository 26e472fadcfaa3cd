"""Weights that are too large to be dense: no step allocates a tensor of their size, and what needs one is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from parametrizations import (
    MaskedSparse,
    NegExpDiagonal,
    Signed,
    ZeroDiagonal,
    bake,
    explain,
    masks,
    plain_state_dict,
    register,
    remask,
    summary,
    tune,
)

SIDE = 8192
MILLION = 1_000_000
KEPT = 20_000


def edges_of(side: int, *, diagonal: bool = False) -> Tensor:
    edges = torch.randint(side, (KEPT, 2), generator=torch.Generator().manual_seed(0))
    return torch.cat([edges, torch.arange(side)[:, None].expand(side, 2)]) if diagonal else edges


def large(side: int, *steps: nn.Module, diagonal: bool = False) -> Any:
    layer = nn.Linear(side, side, bias=False, device="meta")
    register(layer, {"weight": [MaskedSparse(masks.from_edges(edges_of(side, diagonal=diagonal))), *steps]})
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    return layer


CHAINS: dict[str, Callable[[], Sequence[nn.Module]]] = {
    "a mask": lambda: [],
    "one sign": lambda: [Signed(1)],
    "a sign per column": lambda: [Signed(torch.arange(SIDE) % 3 - 1, map="softplus")],
    "a negative diagonal": lambda: [NegExpDiagonal()],
    "a zero diagonal": lambda: [ZeroDiagonal()],
}


def train(layer: Any, rules: Sequence[Any]) -> None:
    optimizer = torch.optim.Adam(layer.parameters())
    for rule in (None, *rules):
        if rule is not None:
            remask(layer, {"weight": rule}, optimizer=optimizer)
        layer(torch.ones(2, SIDE)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    layer.load_state_dict(layer.state_dict())
    assert summary(layer).rows[0].holds


def largest_allocation(call: Callable[[], object]) -> int:
    """The largest number of bytes that one operation of PyTorch allocates on the CPU."""
    with profile(profile_memory=True) as profiled:
        call()
    return int(max(event.self_cpu_memory_usage for event in profiled.events() or ()))


def test_the_watch_sees_a_dense_mask() -> None:
    assert largest_allocation(lambda: torch.zeros(SIDE, SIDE, dtype=torch.bool)) >= SIDE**2


@pytest.mark.parametrize("name", CHAINS)
def test_nothing_as_large_as_the_weight_is_allocated(name: str) -> None:
    """Not even one byte for each entry of the weight."""
    whole = "diagonal" in name
    rules = [
        masks.evolutionary(0.3),
        masks.random(density=KEPT / SIDE**2),
        masks.magnitude(density=KEPT / 2 / SIDE**2),
        masks.nonzero(),
        masks.banded(1, 1),
        masks.lower_triangular(2 - SIDE),
        masks.autoregressive(torch.arange(SIDE), torch.arange(SIDE) - SIDE + 3),
        masks.erdos_renyi(density=KEPT / SIDE**2),
        masks.global_magnitude(density=KEPT / 4 / SIDE**2),
        torch.eye(SIDE).to_sparse(),
    ]
    if name == "a negative diagonal":  # it needs the whole diagonal
        rules = [rules[4], masks.block_diagonal(SIDE // 2), rules[-1]]
    steps = CHAINS[name]()
    assert largest_allocation(lambda: train(large(SIDE, *steps, diagonal=whole), rules)) < SIDE**2


def test_derivatives_allocate_no_dense_weight() -> None:
    layer = large(SIDE, Signed(1))
    stored, input = dict(layer.named_parameters()), torch.ones(3, SIDE)

    def loss(values: Any, row: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(layer, values, row)
        return output.square().mean()

    def derive() -> None:
        torch.func.grad(loss)(stored, input)
        torch.func.vmap(torch.func.grad(loss), (None, 0))(stored, input[:, None])
        torch.func.jvp(lambda values: loss(values, input), (stored,), (stored,))
        torch.func.jacrev(lambda values: loss(values, input))(stored)
        torch.autograd.grad(layer(input).square().mean(), layer.parameters(), create_graph=True)[0].sum().backward()

    assert largest_allocation(derive) < SIDE**2


NEED_THE_DENSE_WEIGHT: dict[str, tuple[Callable[[Any], object], str]] = {
    "its weight": (lambda layer: layer.weight, "MaskedSparse needs 4 TB for the dense weight"),
    "bake": (bake, "bake needs 4 TB"),
    "a plain checkpoint": (plain_state_dict, "plain_state_dict needs 4 TB"),
    "torch.export": (lambda layer: torch.export.export(layer, (torch.ones(1, MILLION),)), "needs 4 TB"),
    "torch.jit.trace": (lambda layer: torch.jit.trace(layer, torch.ones(1, MILLION)), "needs 4 TB"),  # type: ignore[no-untyped-call]
    "half precision": (lambda layer: layer.half()(torch.ones(1, MILLION).half()), "needs 2 TB"),
    "a rule that reads the weight": (
        lambda layer: remask(layer, {"weight": lambda weight: weight > 0}, optimizer=None),
        "weight on meta has a shape alone",
    ),
    "a constraint on the whole weight": (
        lambda layer: register(layer, {"weight": NegExpDiagonal()}),
        "register needs 4 TB.*Attach all constraints in one call, on the meta device",
    ),
}


@pytest.mark.parametrize("name", NEED_THE_DENSE_WEIGHT)
def test_what_needs_the_dense_weight_is_refused_with_its_size(name: str) -> None:
    call, message = NEED_THE_DENSE_WEIGHT[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call(large(MILLION))


def test_a_mask_that_later_constraints_cannot_use_is_refused_with_the_reason() -> None:
    layer = large(MILLION, NegExpDiagonal(), diagonal=True)
    with pytest.raises(ValueError, match=r"remask needs 4 TB.*Keep the entries that the later constraints need"):
        remask(layer, {"weight": masks.random(density=1e-8)}, optimizer=None)
    assert explain(layer).product == "csr"


def test_a_very_large_weight_bakes_to_a_sparse_one() -> None:
    layer = large(MILLION, Signed(-1))
    baked, input = bake(layer, layout=torch.sparse_csr), torch.ones(2, MILLION)
    assert (baked.weight.layout, baked.weight.shape) == (torch.sparse_csr, (MILLION, MILLION))
    expected = layer(input)
    torch.testing.assert_close(baked(input), expected)
    alone = large(MILLION)
    kept = bake(alone, layout=torch.sparse_csr).state_dict()
    before = alone.parametrizations.weight.original.detach().clone()
    alone.reset_parameters()
    alone.load_state_dict(kept)
    assert torch.equal(alone.parametrizations.weight.original.detach(), before)


def test_a_chain_of_three_has_a_summary() -> None:
    assert summary(large(MILLION, ZeroDiagonal(), Signed(1))).rows[0].holds is None


def test_the_sparse_weight_of_a_chain_loads_back() -> None:
    layer = large(MILLION, Signed(-1))
    kept, before = bake(layer, layout=torch.sparse_csr).state_dict(), layer.parametrizations.weight.original.clone()
    layer.reset_parameters()
    layer.load_state_dict(kept)
    torch.testing.assert_close(layer.parametrizations.weight.original, before)


def test_tune_leaves_out_strips_over_the_whole_weight() -> None:
    layer = large(MILLION)
    tune(layer, torch.ones(1, MILLION))
    assert explain(layer).product == "csr"


def test_a_function_of_the_shape_moves_a_mask() -> None:
    layer = large(MILLION)
    indices = torch.arange(5).expand(2, 5)

    def corner(weight: Tensor) -> Tensor:
        return torch.sparse_coo_tensor(indices, torch.ones(5), weight.shape, check_invariants=True)

    remask(layer, {"weight": corner}, optimizer=None)
    assert layer.parametrizations.weight.original.shape == (5,)


def test_batched_gradients_of_an_unstructured_mask_are_refused_with_the_size() -> None:
    layer = large(MILLION)
    output = layer(torch.ones(1, MILLION))
    with pytest.raises(ValueError, match="The derivative needs 4 TB"):
        torch.autograd.grad(output, list(layer.parameters()), torch.ones(2, 1, MILLION), is_grads_batched=True)


TEN_MILLION_EDGES = """
import resource
import torch
from torch import nn
from parametrizations import MaskedSparse, masks, register, remask

def of_process(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

nn.Linear(1, 1)(torch.zeros(1, 1)).sum().backward()
start = of_process("VmHWM")
resource.setrlimit(resource.RLIMIT_DATA, (of_process("VmData") + 1_500_000_000,) * 2)
n = 1_000_000
layer = nn.Linear(n, n, bias=False, device="meta")
edges = torch.randint(n, (10_000_000, 2), generator=torch.Generator().manual_seed(0))
register(layer, {"weight": MaskedSparse(masks.from_edges(edges))})
layer.to_empty(device="cpu")
layer.reset_parameters()
optimizer = torch.optim.Adam(layer.parameters())
layer(torch.randn(16, n)).square().mean().backward()
optimizer.step()
training = of_process("VmHWM") - start
for rule in (masks.evolutionary(0.3), masks.random(density=1e-5)):
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    before = of_process("VmHWM")
    remask(layer, {"weight": rule}, optimizer=optimizer)
    print(of_process("VmHWM") - before)
print(training)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
def test_ten_million_edges_fit_into_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", TEN_MILLION_EDGES], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    moving, redrawing, training = map(int, done.stdout.split())
    assert training < 1.5e9
    assert max(moving, redrawing) < 0.9e9
