"""Chains use the structured product of their first step: the law "fused equals dense" for chains."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    explain,
    fuse,
    masks,
    register,
    summary,
)
from parametrizations.testing import check_parametrization
from parametrizations.testing.check import LAWS
from parametrizations.testing.requirements import Skipped
from parametrizations.testing.subject import STORED, outcome_of, stored
from parametrizations.typing import Product
from tests.cases import weight
from tests.chains import CHAINS, Chain, Dale
from tests.layers import Doubled, fused, of_the_compiler
from tests.thresholds import lower

TRACING = ("compiles", "exports")
PAIRS = [
    (law, case)
    for law, case in itertools.product(["fused_layers_are_the_layers", "autocast_works", *TRACING], CHAINS)
    if law not in TRACING or case.endswith("square-float32")
]
DOUBLE = {case: chain for case, chain in CHAINS.items() if case.endswith("float64")}
every = pytest.mark.parametrize("case", DOUBLE.values(), ids=DOUBLE)


@pytest.fixture(autouse=True)
def _many_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, strip_cost=4, dense_jvp=0)


@pytest.mark.parametrize(("law", "case"), PAIRS, ids=map("-".join, PAIRS))
def test_law(law: str, case: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            LAWS[law](CHAINS[case])
        except Skipped as reason:
            pytest.skip(str(reason))


@every
def test_a_chain_uses_the_product_of_its_first_step_if_possible(case: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, inputs = fuse(case.layer()), case.inputs(3)
    alone = case.weight.numel() == 1 and case.name == "dense"  # a single entry can be the whole diagonal
    assert explain(layer).product == case.name or alone
    if case.name != "dense":
        expected = F.linear(inputs, layer.weight, layer.bias)
        monkeypatch.setattr(type(layer.parametrizations.weight[0]), "forward", None)  # no weight is materialised
        torch.testing.assert_close(layer(inputs), expected)


def called(layer: Any) -> Callable[..., Tensor]:
    def call(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        output: Tensor = functional_call(layer, {STORED: x, "bias": bias}, (input,))
        return output

    return call


def both(case: Chain) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    """The fused layer, the dense layer, and their arguments."""
    layer = case.layer()
    leaves = [case.inputs(3), stored(layer).detach(), layer.bias.detach()]
    return called(fuse(copy.deepcopy(layer))), called(layer), leaves


@every
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,), (2, 0)])
def test_every_shape_of_the_input_gives_the_same(case: Chain, batch: tuple[int, ...]) -> None:
    fused, plain, (_, *others) = both(case)
    leaves = [case.inputs(*batch), *others]
    for one, other in zip(outcome_of(fused, leaves), outcome_of(plain, leaves), strict=True):
        torch.testing.assert_close(one, other)


@every
def test_every_order_and_mode_of_differentiation_works(case: Chain) -> None:
    fused, _, leaves = both(case)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    torch.autograd.gradcheck(fused, leaves, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(fused, leaves, check_batched_grad=True, check_fwd_over_rev=True)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": lambda f, i, x, b: torch.func.grad(lambda *all: f(*all).square().sum(), (0, 1, 2))(i, x, b),
    "jvp": lambda f, i, x, b: torch.func.jvp(f, (i, x, b), (i + 1, x * 2, b - 1)),
    "jacrev": lambda f, i, x, b: torch.func.jacrev(f, (0, 1))(i, x, b),
    "jacfwd": lambda f, i, x, b: torch.func.jacfwd(f, (0, 1))(i, x, b),
    "hessian": lambda f, i, x, b: torch.func.hessian(lambda x: f(i, x, b).pow(3).sum())(x),
    "vmap over inputs": lambda f, i, x, b: torch.func.vmap(f, (0, None, None))(i, x, b),
    "vmap over entries": lambda f, i, x, b: torch.func.vmap(f, (None, 0, None))(i, torch.stack([x, x / 2]), b),
    "a gradient for each sample": lambda f, i, x, b: torch.func.vmap(
        torch.func.grad(lambda i, x: f(i, x, b).square().sum(), (0, 1)), (0, None)
    )(i, x),
}


@every
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_give_the_same(case: Chain, transform: Callable[..., Any]) -> None:
    fused, plain, leaves = both(case)
    torch.testing.assert_close(transform(fused, *leaves), transform(plain, *leaves))


@every
def test_another_default_device_changes_nothing(case: Chain) -> None:
    fused, plain, leaves = both(case)
    expected = plain(*leaves)
    with torch.device("meta"):
        torch.testing.assert_close(fused(*leaves), expected)


@every
def test_many_gradients_at_once_are_the_same(case: Chain) -> None:
    fused, plain, leaves = both(case)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    vectors = torch.stack([torch.ones_like(output := plain(*leaves)), 2 + torch.arange(output.numel()).view_as(output)])
    got, expected = (
        torch.autograd.grad(call(*leaves), leaves, vectors, is_grads_batched=True) for call in (fused, plain)
    )
    torch.testing.assert_close(got, expected)


@pytest.mark.slow
@of_the_compiler
@pytest.mark.parametrize("case", [case for name, case in CHAINS.items() if name.endswith("square-float32")])
def test_compiled_layers_on_top_of_each_other_train(case: Chain) -> None:
    torch.compiler.reset()
    model = nn.Sequential(fuse(case.layer()), nn.Tanh(), fuse(case.layer()))
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, backend="aot_eager", fullgraph=True)
    for batch in (2, 3):
        leaves = [case.inputs(batch).requires_grad_(), *model.parameters()]
        got, expected = (torch.autograd.grad(call(leaves[0]).square().sum(), leaves) for call in (compiled, model))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_step_of_a_user_holds_every_promise(dtype: torch.dtype) -> None:
    outcome = check_parametrization(Dale(), weight((6, 5), dtype))
    assert not [text for text in outcome.values() if text != "held" and not text.startswith("skipped: autocast")]


MILLION = """
import torch
from torch import nn
from parametrizations import Diagonal, NegExpDiagonal, register, summary
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
n = 2**20
torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)).sum().backward()
torch.optim.Adam([nn.Parameter(torch.ones(1))])
before = peak()
with torch.device("meta"):
    layer = register(nn.Linear(n, n), {"weight": STEPS})
layer.to_empty(device="cpu")
with torch.no_grad():
    layer.parametrizations.weight.original.normal_()
    layer.bias.zero_()
optimizer = torch.optim.Adam(layer.parameters())
layer(torch.ones(8, n)).square().mean().backward()
optimizer.step()
row = summary(layer).rows[0]
assert (row.stored, row.dense, row.holds, row.product) == (n, n * n, True, "elementwise"), row
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("steps", ["[Diagonal(), NegExpDiagonal()]", "[Diagonal()]"])
def test_a_million_features_take_an_adam_step_in_the_memory_of_a_diagonal(steps: str) -> None:
    source = MILLION.replace("STEPS", steps)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=120)
    assert 8 * 4 < float(done.stdout) < 400  # the inputs alone take 32 MB


def test_a_summary_does_not_materialise_chains_with_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]
    layer: Any = register(nn.Linear(4, 4), {"weight": steps})
    monkeypatch.setattr(MaskedSparse, "forward", None)
    assert summary(layer).rows[0].holds is True
    with torch.no_grad():
        stored(layer)[1] = torch.inf
    assert summary(layer).rows[0].holds is False


@pytest.mark.parametrize(
    ("steps", "holds"),
    [
        ([Diagonal(), NegExpDiagonal(), ZeroDiagonal()], False),  # the last step removes the negative diagonal
        ([Diagonal(), ZeroDiagonal(), NegExpDiagonal()], False),
        ([MaskedSparse(masks.lower_triangular(-1)), NegExpDiagonal()], False),  # the mask hides the diagonal
        ([Diagonal(), Doubled(), ZeroDiagonal()], True),
        ([Diagonal(), Doubled()], None),
    ],
)
def test_a_summary_says_whether_every_constraint_of_a_chain_holds(steps: list[nn.Module], holds: bool | None) -> None:
    layer = fused(lambda: steps[0], 4, 4)
    for step in steps[1:]:
        register_parametrization(layer, "weight", step)
    assert summary(layer).rows[0].holds is holds


@pytest.mark.parametrize("product", ["dense", "strips"])
@pytest.mark.parametrize("dtypes", [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)])
def test_a_chain_in_half_precision_works_under_autocast_of_the_other_half_precision(
    product: Product, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    layer = nn.Linear(4, 4, dtype=dtypes[0])
    register(layer, {"weight": [MaskedSparse(masks.lower_triangular(), product=product), NegExpDiagonal()]})
    inputs = torch.randn(2, 4, dtype=dtypes[0])
    with torch.autocast("cpu", dtypes[1]):
        torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight, layer.bias), rtol=0.02, atol=0.02)
