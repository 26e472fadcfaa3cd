"""Every product has the values, digits, memory layout and errors of the dense product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.flop_counter import FlopCounterMode

from parametrizations import Diagonal, Parametrization, explain, fuse
from tests.layers import (
    INPUTS,
    PRODUCTS,
    constrained,
    dense_output,
    every,
    fused,
    of_the_compiler,
)
from tests.operations import SCATTERS, operations
from tests.thresholds import lower


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give small matrices several strips and several diagonal blocks."""
    lower(monkeypatch, strip_cost=4, diagonal_block=3)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def summed_one_by_one(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.mT`` with the terms of each sum added in order, which rounds most often.

    In half precision, sums are computed in float32 and rounded once, as in a matrix product.
    """
    wide = torch.float32 if left.dtype.itemsize == 2 else left.dtype
    total = torch.zeros(left.shape[0], right.shape[0], dtype=wide)
    for one, other in zip(left.to(wide).mT, right.to(wide).mT, strict=True):
        total = total + one[:, None] * other
    return total.to(left.dtype)


def with_gradients(product: Product, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output of a product, and its gradients for input, stored tensor and bias."""
    taken = [leaf.clone().requires_grad_() for leaf in leaves]
    output = product(*taken)
    return [output.detach(), *torch.autograd.grad(output, taken, grad)]


def from_sums(layer: Any, leaves: list[Tensor], grad: Tensor, sums: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The same results from sums of products: ``sums(left, right)`` is ``left @ right.mT``."""
    input, x, bias = leaves
    weight = layer(x := x.clone().requires_grad_())
    of_weight = sums(grad.mT, input.mT).to(x.dtype)
    (of_x,) = torch.autograd.grad(weight, x, of_weight)
    output = sums(input, weight.detach()) + bias
    return [
        output,
        sums(grad, weight.detach().mT),
        of_x,
        sums(grad.mT, torch.ones(1, len(grad), dtype=grad.dtype))[:, 0],
    ]


def in_double(left: Tensor, right: Tensor) -> Tensor:
    return left.double() @ right.double().mT


def mean_error(got: Tensor, exact: Tensor) -> float:
    return ((got.double() - exact).abs().mean() / exact.double().abs().mean()).item()


def scaled(layer: Any, dtype: torch.dtype, scale: str) -> tuple[list[Tensor], Tensor]:
    """Input, stored tensor and bias of a product that could lose digits, and a gradient of its output."""
    inputs, bias, grad = torch.randn(32, 256), torch.randn(256), torch.randn(32, 256)
    x = layer.parametrizations.weight.original.detach()
    if scale == "stored from -80 to 80" and x.dim() == 2:
        x = x.diagonal_scatter(torch.linspace(-80, 80 if dtype is not torch.float16 else 8, 256))
    if scale == "badly scaled inputs":
        inputs = inputs * torch.logspace(-3, 3, 256)[torch.randperm(256)]  # unsorted, or one order would be best
    return [tensor.to(dtype) for tensor in (inputs, x, bias)], grad.to(dtype)


@pytest.mark.parametrize("scale", ["usual", "stored from -80 to 80", "badly scaled inputs"])
@pytest.mark.parametrize("dtype", DTYPES)
@every
def test_no_digits_are_lost(
    make: Callable[[], Parametrization], dtype: torch.dtype, scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean error against float64 is at most that of the dense product or of adding the terms in order."""
    lower(monkeypatch, diagonal_block=100)
    layer = constrained(make(), nn.Linear(256, 256).weight.detach())
    leaves, grad = scaled(layer, dtype, scale)
    parametrization = layer.parametrizations.weight[0]
    if dtype is torch.float64:  # there is not a wider dtype, so compare up to the last few digits
        one, other = parametrization.linear(*leaves), F.linear(leaves[0], parametrization(leaves[1]), leaves[2])
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * other.abs().max().item())
        return
    exact = from_sums(parametrization, leaves, grad, in_double)
    plain = from_sums(parametrization, leaves, grad, summed_one_by_one)
    dense = with_gradients(lambda i, x, b: F.linear(i, parametrization(x), b), leaves, grad)
    fused = with_gradients(parametrization.linear, leaves, grad)
    last_digit = torch.finfo(dtype).eps / 8  # the exact result must be rounded, too
    for name, true, *others in zip(("output", "input", "x", "bias"), exact, fused, plain, dense, strict=True):
        error, one_by_one, own = (mean_error(other, true) for other in others)
        # A tenth more, because a fused multiply-add rounds differently.
        allowed = 1.1 * max(one_by_one, own, last_digit)
        assert error <= allowed, f"{name}: {error:.2e} against {one_by_one:.2e} and {own:.2e}"


@every
def test_every_error_is_within_the_bound_of_a_sum(make: Callable[[], Parametrization]) -> None:
    """``k u`` times the sum of the terms' sizes, for ``k`` terms in any order (Higham 2002, section 3.1)."""
    layer = constrained(make(), nn.Linear(256, 256).weight.detach())
    leaves, grad = scaled(layer, torch.float32, "usual")
    parametrization = layer.parametrizations.weight[0]
    weight, unit = parametrization(leaves[1]), torch.finfo(torch.float32).eps / 2
    terms = (weight != 0).sum(1) + 1  # one more for the bias
    sizes = leaves[0].abs().double() @ weight.abs().double().mT + leaves[2].abs().double()
    exact = from_sums(parametrization, leaves, grad, in_double)[0]
    apart = (parametrization.linear(*leaves).double() - exact).abs()
    assert bool((apart <= 1.01 * unit * terms * sizes).all())


@every
def test_wrong_inputs_say_what_a_layer_needs(make: Callable[[], Parametrization]) -> None:
    layer = fused(make)
    with pytest.raises(
        RuntimeError, match=r"A layer with 6 inputs needs an input of shape \(\*, 6\). Got shape \(2, 1\)"
    ):
        layer(torch.ones(2, 1))
    with pytest.raises(RuntimeError, match=r"device of its weight, torch.float32 on cpu. Got torch.float64 on cpu"):
        layer(INPUTS.double())
    with pytest.raises(RuntimeError, match=r"torch.float32 on cpu. Got torch.float32 on meta"):
        layer(INPUTS.to("meta"))


@every
@pytest.mark.parametrize("like", [torch.ones(4, dtype=torch.float64), torch.ones(4, device="meta")])
def test_a_bias_of_another_kind_is_refused_as_by_a_layer(make: Callable[[], Parametrization], like: Tensor) -> None:
    plain, layer = nn.Linear(6, 4), fused(make)
    plain.bias = layer.bias = nn.Parameter(like)
    with pytest.raises(RuntimeError, match=r"dtype|device"):
        plain(INPUTS)
    with pytest.raises(RuntimeError, match=r"needs a bias with the dtype and device of its weight, torch.float32"):
        layer(INPUTS)


def outcome(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    values = output.values() if output.is_nested else output
    return [values, *torch.autograd.grad(values.sum(), leaves)]


@every
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse .* support is in beta")
@pytest.mark.parametrize(
    "of",
    [
        Tensor.to_sparse,
        Tensor.to_sparse_csr,
        lambda inputs: torch.nested.nested_tensor([inputs, inputs[:1]], layout=torch.jagged),
    ],
    ids=["COO", "csr", "nested"],
)
def test_inputs_that_are_not_dense_rows_work_as_in_a_linear_layer(
    make: Callable[[], Parametrization], of: Callable[[Tensor], Tensor]
) -> None:
    layer = fused(make)
    leaves, inputs = [layer.bias, layer.parametrizations.weight.original], of(INPUTS)
    for one, other in zip(outcome(layer(inputs), leaves), outcome(dense_output(layer, inputs), leaves), strict=True):
        torch.testing.assert_close(one, other)


@every
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_layer_without_inputs_or_outputs_works(
    make: Callable[[], Parametrization], shape: tuple[int, int], batch: tuple[int, ...]
) -> None:
    layer, inputs = fused(make, *shape), torch.randn(*batch, shape[0], requires_grad=True)
    leaves = [inputs, *layer.parameters()]
    assert torch.equal(layer(inputs), dense_output(layer, inputs))
    for gradient, leaf in zip(torch.autograd.grad(layer(inputs).sum(), leaves), leaves, strict=True):
        assert gradient.shape == leaf.shape


@every
def test_another_default_device_changes_nothing(make: Callable[[], Parametrization]) -> None:
    layer, inputs = fused(make), INPUTS.clone().requires_grad_()
    with torch.device("meta"):
        output = layer(inputs)
        (gradient,) = torch.autograd.grad(output.sum(), inputs)
    torch.testing.assert_close(output, dense_output(layer))
    torch.testing.assert_close(gradient, layer.weight.sum(0).expand(2, 6))


@every
@pytest.mark.parametrize("inputs", [torch.randn(6, 5).mT, torch.randn(2, 6, 3).mT, torch.randn(6).expand(3, 6)])
def test_the_output_is_contiguous_as_that_of_a_layer(make: Callable[[], Parametrization], inputs: Tensor) -> None:
    for rows in (4, 6, 9):
        layer = fused(make, rows=rows)
        output = layer(inputs)
        assert output.stride() == F.linear(inputs, torch.ones(rows, 6)).stride()
        torch.testing.assert_close(output, dense_output(layer, inputs))


@every
@of_the_compiler
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 6), (2, 3, 6)])
def test_the_output_may_be_changed_in_place(
    make: Callable[[], Parametrization],
    bias: bool,
    shape: tuple[int, ...],
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.compiler.reset()
    lower(monkeypatch, diagonal_block=2)
    layer: Any = fuse(register_parametrization(nn.Linear(6, 4, bias=bias), "weight", make()))
    inputs = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()
    leaves = [inputs, *layer.parameters()]
    model: Any = nn.Sequential(layer, nn.ReLU(inplace=True))
    output = torch.compile(model, backend="aot_eager", fullgraph=True)(inputs) if compiled else model(inputs)  # type: ignore[no-untyped-call]
    got = torch.autograd.grad(output.sum(), leaves)
    expected = torch.autograd.grad(dense_output(layer, inputs).relu().sum(), leaves)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@every
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_output_is_no_view_of_which_fsdp2_would_lose_sight(
    make: Callable[[], Parametrization], batch: int, bias: bool
) -> None:
    layer: Any = fuse(register_parametrization(nn.Linear(6, 4, bias=bias), "weight", make()))
    assert not layer(torch.ones(batch, 6))._is_view()


@pytest.mark.parametrize("kind", ["ZeroDiagonal", "NegExpDiagonal"])
def test_replaced_diagonal_counts_as_many_operations_as_the_dense_product(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower(monkeypatch, diagonal_block=2)
    layer, inputs = fused(PRODUCTS[kind]), INPUTS.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        layer(inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * 6 * 4


def test_a_hidden_entry_ignores_an_infinite_input() -> None:
    layer = fused(lambda: Diagonal(product="elementwise"))
    inputs = INPUTS.clone()
    inputs[0, 5] = torch.inf
    assert bool(layer(inputs).isfinite().all())


@pytest.mark.slow
@of_the_compiler
@every
def test_compiled_layers_on_top_of_each_other_train(make: Callable[[], Parametrization]) -> None:
    """The gradient of the input is another product of the same kind."""
    torch.compiler.reset()
    model = nn.Sequential(fused(make), nn.Tanh(), fused(make, 4, 6))
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, backend="aot_eager", fullgraph=True)
    for batch in (2, 3):
        inputs = torch.linspace(-1, 1, 6 * batch).view(batch, 6).requires_grad_()
        leaves = [inputs, *model.parameters()]
        got, expected = (torch.autograd.grad(call(inputs).square().sum(), leaves) for call in (compiled, model))
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)


@every
def test_a_backward_pass_under_autocast_works_as_that_of_a_layer(make: Callable[[], Parametrization]) -> None:
    layer, inputs = fused(make), INPUTS.clone().requires_grad_()
    leaves = [inputs, *layer.parameters()]
    outputs = layer(inputs), dense_output(layer, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = (torch.autograd.grad(output.square().sum(), leaves) for output in outputs)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype is other.dtype
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


@every
def test_derivatives_of_derivatives_in_forward_mode_are_those_of_the_dense_product(
    make: Callable[[], Parametrization],
) -> None:
    """PyTorch drops the outer tangent of the output of a custom autograd function."""
    layer, x = fused(make).double(), torch.randn(6, dtype=torch.float64)

    def of_product(x: Tensor) -> Tensor:
        output: Tensor = layer(x.exp())
        return output.sum()

    def of_weight(x: Tensor) -> Tensor:
        return dense_output(layer, x.exp()).sum()

    jacfwd, jacrev = torch.func.jacfwd, torch.func.jacrev
    torch.testing.assert_close(jacfwd(jacfwd(of_product))(x), jacrev(jacrev(of_weight))(x))


@of_the_compiler
@every
def test_compiled_transforms_are_those_of_the_dense_product(make: Callable[[], Parametrization]) -> None:
    torch.compiler.reset()
    layer = fused(make)
    compiled: Any = torch.compile(torch.func.grad(lambda x: layer(x).sum()), backend="eager", fullgraph=True)  # type: ignore[misc]
    torch.testing.assert_close(compiled(INPUTS), layer.weight.sum(0).expand(2, 6))


def doubled(kind: type[Parametrization]) -> type[Parametrization]:
    class Twice(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            weight: Tensor = super().forward(x)
            return 2 * weight

    return Twice


@every
def test_a_subclass_that_overrides_forward_alone_is_multiplied_with_its_own_weight(
    make: Callable[[], Parametrization],
) -> None:
    made = make()
    made.__class__ = doubled(type(made))
    layer = fused(lambda: made)
    assert explain(layer).product == "dense"
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))


@every
def test_a_loop_under_autocast_computes_once(make: Callable[[], Parametrization]) -> None:
    layer = fused(make)

    def loop(steps: int) -> None:
        with torch.autocast("cpu", torch.bfloat16), parametrize.cached():
            for _ in range(steps):
                layer(INPUTS)

    assert len(operations(lambda: loop(3), *SCATTERS)) == len(operations(lambda: loop(1), *SCATTERS))
