"""Ways to multiply: the dense product's values, digits, memory layout, and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.flop_counter import FlopCounterMode

from parametrizations import Diagonal, NegExpDiagonal, Parametrization, fuse
from parametrizations._products import replaced_diagonal as strips
from parametrizations.neg_exp_diagonal import _diagonal
from tests.layers import INPUTS, PRODUCTS, constrained, dense_output, every, fused, of_the_compiler


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(7, 7), (9, 5), (5, 9), (4, 1), (1, 4)])
def test_strips_of_every_size_are_the_dense_product(
    shape: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "BLOCK", block)
    leaves = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((3, shape[1]), shape, shape[:1])]

    def product(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        return strips.replaced_diagonal_linear(input, x, bias, _diagonal)

    expected = F.linear(leaves[0], NegExpDiagonal()(leaves[1]), leaves[2])
    torch.testing.assert_close(product(*leaves), expected)
    torch.autograd.gradcheck(product, leaves, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(product, leaves, check_batched_grad=True)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def errors(function: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor, exact: list[Tensor]) -> list[float]:
    """The mean error of the output and of each gradient, over the mean of the exact ones."""
    taken = [leaf.clone().requires_grad_() for leaf in leaves]
    output = function(*taken)
    got = [output.detach(), *torch.autograd.grad(output, taken, grad)]
    return [
        ((one.double() - other).abs().mean() / other.abs().mean()).item() for one, other in zip(got, exact, strict=True)
    ]


@pytest.mark.parametrize("scale", ["usual", "stored from -80 to 80", "badly scaled inputs"])
@pytest.mark.parametrize("dtype", DTYPES)
@every
def test_no_digits_are_lost(make: Callable[[], Parametrization], dtype: torch.dtype, scale: str) -> None:
    """A fused product has at most 1.5 times the dense path's own mean error against float64."""
    layer = constrained(make(), nn.Linear(640, 640).weight.detach())
    inputs, bias, grad = torch.randn(64, 640), torch.randn(640), torch.randn(64, 640)
    x = layer.parametrizations.weight.original.detach()
    if scale == "stored from -80 to 80" and x.dim() == 2:
        x = x.diagonal_scatter(torch.linspace(-80, 80 if dtype is not torch.float16 else 8, 640))
    if scale == "badly scaled inputs":
        inputs = inputs * torch.logspace(-3, 3, 640)
    leaves = [tensor.to(dtype) for tensor in (inputs, x, bias)]
    parametrization = layer.parametrizations.weight[0]
    if dtype is torch.float64:  # nothing wider is there to compare with: equal to the last few digits
        one, other = parametrization.linear(*leaves), F.linear(leaves[0], parametrization(leaves[1]), leaves[2])
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * other.abs().max().item())
        return

    def dense(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        return F.linear(input, parametrization(x), bias)

    def exact_product(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        # The map on the diagonal depends on the dtype; its rounded values are what both products start from.
        return F.linear(input, x, bias)

    weight = parametrization(leaves[1]).detach()
    wide = [tensor.double().requires_grad_() for tensor in (leaves[0], weight, leaves[2])]
    output = exact_product(*wide)
    of_input, of_weight, of_bias = torch.autograd.grad(output, wide, grad.to(dtype).double())
    (of_x,) = torch.autograd.grad(parametrization(leaves[1].requires_grad_()), leaves[1], of_weight.to(dtype))
    exact = [output.detach(), of_input, of_x.double(), of_bias]
    got = errors(parametrization.linear, leaves, grad.to(dtype), exact)
    own = errors(dense, leaves, grad.to(dtype), exact)
    floor = torch.finfo(dtype).eps / 8  # both round to the last digit
    for name, fused_error, dense_error in zip(("output", "input", "x", "bias"), got, own, strict=True):
        assert fused_error <= 1.5 * max(dense_error, floor), f"{name}: {fused_error:.2e} against {dense_error:.2e}"


@every
def test_wrong_inputs_say_what_a_layer_needs(make: Callable[[], Parametrization]) -> None:
    layer = fused(make)
    with pytest.raises(
        RuntimeError, match=r"A layer with 6 inputs needs an input of shape \(\*, 6\). Got shape \(2, 1\)"
    ):
        layer(torch.ones(2, 1))
    with pytest.raises(RuntimeError, match=r"its own dtype and device, torch.float32 on cpu. Got torch.float64 on cpu"):
        layer(INPUTS.double())
    with pytest.raises(RuntimeError, match=r"torch.float32 on cpu. Got torch.float32 on meta"):
        layer(INPUTS.to("meta"))


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
@pytest.mark.parametrize("compiled", [False, True])
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
    monkeypatch.setattr(strips, "COPIED", 0)
    monkeypatch.setattr(strips, "BLOCK", 2)
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
    make: Callable[[], Parametrization], batch: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "COPIED", 0)
    layer: Any = fuse(register_parametrization(nn.Linear(6, 4, bias=bias), "weight", make()))
    assert not layer(torch.ones(batch, 6))._is_view()


@pytest.mark.parametrize("kind", ["ZeroDiagonal", "NegExpDiagonal"])
def test_strips_count_as_the_dense_product(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "COPIED", 0)
    monkeypatch.setattr(strips, "BLOCK", 2)
    layer, inputs = fused(PRODUCTS[kind]), INPUTS.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        layer(inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * 6 * 4


def test_a_hidden_entry_ignores_an_infinite_input() -> None:
    layer = fused(lambda: Diagonal(product="structured"))
    inputs = INPUTS.clone()
    inputs[0, 5] = torch.inf
    assert bool(layer(inputs).isfinite().all())
