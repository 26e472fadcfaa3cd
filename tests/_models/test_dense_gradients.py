"""`dense_gradients`: the gradient with respect to the full weight; training is unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    bake,
    dense_gradients,
    masks,
    register,
    remask,
)
from tests.layers import of_the_compiler
from tools.injection import everything

KINDS: dict[str, Callable[[], Any]] = {
    "dense": lambda: MaskedSparse(masks.random(density=0.3), product="dense"),
    "csr": lambda: MaskedSparse(masks.random(density=0.3), product="csr"),
    "banded": lambda: MaskedSparse(masks.banded(1, 1), product="strips"),
    "chain": lambda: [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
    "Diagonal": Diagonal,
    "ZeroDiagonal": lambda: ZeroDiagonal(product="replaced-diagonal"),
}
every = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


class Net(nn.Module):
    """Calls one layer twice, with inputs of several dimensions, and reads its weight once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.last = nn.Linear(6, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        hidden = self.first(input=hidden).tanh()
        output: Tensor = self.last(hidden) + self.first.weight.square().sum()
        return output


def net(make: Callable[[], Any], fused: bool = True, dtype: torch.dtype = torch.float64) -> Any:
    """Registered by this library, or by PyTorch's own function; then only the dense product is used."""
    torch.manual_seed(0)
    made = Net().to(dtype)
    if fused:
        return register(made, {"first.weight": make()})
    steps = make()
    for step in steps if isinstance(steps, list) else [steps]:
        register_parametrization(made.first, "weight", step)
    return made


def batch(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 4, 6, dtype=dtype, generator=torch.Generator(torch.get_default_device()).manual_seed(1))


def by_hand(made: Any, inputs: Tensor, passes: int = 1) -> Tensor:
    plain: Any = bake(made)
    plain.zero_grad()
    for _ in range(passes):
        plain(inputs).square().sum().backward()
    gradient = plain.first.weight.grad
    assert isinstance(gradient, Tensor)
    return gradient


@every
@pytest.mark.parametrize("fused", [True, False], ids=["registered", "by PyTorch"])
def test_it_is_the_gradient_of_the_plain_model(make: Callable[[], Any], fused: bool) -> None:
    made = net(make, fused)
    expected = by_hand(made, batch())
    with dense_gradients(made, "first.weight") as gradients:
        made(batch()).square().sum().backward()
    assert list(gradients) == ["first.weight"]
    gradient = gradients["first.weight"]
    assert gradient.shape == (6, 6)
    torch.testing.assert_close(gradient[:], expected)
    torch.testing.assert_close(torch.cat([gradient[:2], gradient[2:5], gradient[5:9]]), expected)
    assert gradient[4:2].shape == (0, 6)


@every
@pytest.mark.parametrize("fused", [True, False], ids=["registered", "by PyTorch"])
def test_training_is_unchanged(make: Callable[[], Any], fused: bool) -> None:
    made, twin = net(make, fused), net(make, fused)
    for one, other in zip(made.parameters(), twin.parameters(), strict=True):
        other.data.copy_(one.data)
    twin.load_state_dict(made.state_dict())
    before = everything(made)
    with dense_gradients(made):
        output = made(batch())
        output.square().sum().backward()
    expected = twin(batch())
    expected.square().sum().backward()
    assert torch.equal(output, expected)
    for one, other in zip(made.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    made.zero_grad()
    assert everything(made) == before


@every
def test_it_adds_up_over_passes_as_gradients_do(make: Callable[[], Any]) -> None:
    made = net(make)
    with dense_gradients(made, "first.weight") as gradients:
        for _ in range(2):
            made(batch()).square().sum().backward()
        with torch.no_grad():
            made(batch())
    torch.testing.assert_close(gradients["first.weight"][:], by_hand(made, batch(), 2))
    made(batch()).square().sum().backward()  # outside
    torch.testing.assert_close(gradients["first.weight"][:], by_hand(made, batch(), 2))


@every
def test_a_backward_pass_after_the_block_does_not_count(make: Callable[[], Any]) -> None:
    made = net(make)
    with dense_gradients(made, "first.weight") as gradients:
        loss = made(batch()).square().sum()
        loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(gradients["first.weight"][:], by_hand(made, batch()))


@every
def test_inside_of_a_cache(make: Callable[[], Any]) -> None:
    made = net(make)
    expected = by_hand(made, batch(), 2)
    with parametrize.cached():
        made(batch())
        with dense_gradients(made, "first.weight") as gradients:
            for _ in range(2):
                made(batch()).square().sum().backward(retain_graph=True)
            torch.testing.assert_close(gradients["first.weight"][:], expected)
        made(batch())


@every
@pytest.mark.parametrize("reentrant", [True, False])
def test_with_activation_checkpoints(make: Callable[[], Any], reentrant: bool) -> None:
    made = net(make)
    inputs = batch().requires_grad_()
    with dense_gradients(made, "first.weight") as gradients:
        output: Any = checkpoint(made, inputs, use_reentrant=reentrant)
        output.square().sum().backward()
    torch.testing.assert_close(gradients["first.weight"][:], by_hand(made, batch()))


@every
def test_under_autocast(make: Callable[[], Any]) -> None:
    made = net(make, dtype=torch.float32)
    expected = by_hand(made, batch(torch.float32))
    with dense_gradients(made, "first.weight") as gradients:
        with torch.autocast("cpu", torch.bfloat16):
            made(batch(torch.float32)).square().sum().backward()
    gradient = gradients["first.weight"][:]
    assert gradient.dtype is torch.float32
    torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


@of_the_compiler
def test_compiled_models_run_as_they_were_written() -> None:
    made = net(KINDS["csr"])
    compiled: Any = torch.compile(made, backend="aot_eager")
    for _ in range(2):
        compiled(batch()).square().sum().backward()
        with dense_gradients(made, "first.weight") as gradients:
            compiled(batch()).square().sum().backward()
        torch.testing.assert_close(gradients["first.weight"][:], by_hand(made, batch()))
    with dense_gradients(compiled, "*first.weight") as gradients:
        compiled(batch()).square().sum().backward()
    assert list(gradients) == ["_orig_mod.first.weight"]


def test_other_modules_and_users_hooks() -> None:
    embedding: Any = register(nn.Embedding(5, 4), {"weight": MaskedSparse(masks.random(density=0.5))})
    with dense_gradients(embedding) as gradients:
        embedding(torch.tensor([0, 3, 3])).sum().backward()
    assert gradients["weight"][:].sum(1).tolist() == [4, 0, 0, 8, 0]
    layer: Any = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.random(density=0.5))})
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)  # noqa: ARG005
    with dense_gradients(layer) as gradients:
        layer(torch.ones(1, 4)).sum().backward()
    assert gradients["weight"][:].tolist() == [[2.0] * 4] * 4


class Same(nn.Module):
    """Passes the gradient of the weight on unchanged."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def test_accumulated_gradients_are_separate_from_those_of_the_stored_tensor() -> None:
    layer: Any = register(nn.Linear(6, 6, dtype=torch.float64), {"weight": Same()})
    with dense_gradients(layer) as gradients:
        for _ in range(2):
            layer(batch()).square().sum().backward()
        expected = layer.parametrizations.weight.original.grad.clone()
        layer.zero_grad(set_to_none=False)
    torch.testing.assert_close(gradients["weight"][:], expected)


def test_the_gradient_of_an_output_is_kept_apart_from_that_of_the_bias() -> None:
    layer: Any = register(nn.Linear(6, 6, dtype=torch.float64), {"weight": Diagonal()})
    vector = torch.arange(6, dtype=torch.float64)
    with dense_gradients(layer) as gradients:
        for _ in range(2):
            layer(vector).square().sum().backward()
        expected = torch.outer(layer.bias.grad, vector)
        layer.zero_grad(set_to_none=False)
    torch.testing.assert_close(gradients["weight"][:], expected)


def test_inputs_that_have_changed_are_refused() -> None:
    layer = register(
        nn.Linear(6, 6, dtype=torch.float64), {"weight": MaskedSparse(masks.random(density=0.5), product="csr")}
    )
    inputs = batch()
    with dense_gradients(layer) as gradients:
        layer(inputs).square().sum().backward()
    assert gradients["weight"][:].any()
    inputs.zero_()
    with pytest.raises(RuntimeError, match=r"needs the inputs of 'weight' unchanged. Got inputs changed in place"):
        gradients["weight"][:]


def test_complex_weights() -> None:
    layer: Any = nn.Linear(4, 4, dtype=torch.complex128)
    register(layer, {"weight": MaskedSparse(masks.random(density=0.5))})
    inputs = torch.randn(3, 4, dtype=torch.complex128)
    plain = bake(layer)
    plain(inputs).abs().sum().backward()
    with dense_gradients(layer) as gradients:
        layer(inputs).abs().sum().backward()
    torch.testing.assert_close(gradients["weight"][:], plain.weight.grad)
    remask(layer, {"weight": masks.rigl(0.5, gradients)}, optimizer=None)


def test_a_vector_and_an_empty_batch() -> None:
    layer: Any = register(nn.Linear(4, 3), {"weight": MaskedSparse(masks.random(density=0.5))})
    with dense_gradients(layer) as gradients:
        layer(torch.ones(4)).sum().backward()
        layer(torch.ones(0, 4)).sum().backward()
    assert gradients["weight"][:].tolist() == [[1.0] * 4] * 3


def test_a_frozen_weight_and_a_copy() -> None:
    made = net(KINDS["csr"])
    made.first.parametrizations.requires_grad_(False)
    twin = copy.deepcopy(made)
    with dense_gradients(made, "first.weight") as gradients:
        made(batch().requires_grad_()).square().sum().backward()
        twin(batch().requires_grad_()).square().sum().backward()
    expected = by_hand(twin.requires_grad_(), batch())
    assert gradients["first.weight"][:].shape == expected.shape


@every
def test_copies_made_inside_are_ignored(make: Callable[[], Any]) -> None:
    made = net(make)
    expected = by_hand(made, batch())
    with dense_gradients(made, "first.weight") as gradients:
        made(batch()).square().sum().backward()
        for twin in (copy.deepcopy(made), bake(made)):
            twin(batch()).square().sum().backward()
    torch.testing.assert_close(gradients["first.weight"][:], expected)
    twin(batch())


@every
def test_transforms_inside_are_ignored(make: Callable[[], Any]) -> None:
    made = net(make)
    expected = by_hand(made, batch())
    leaves = {name: x.detach() for name, x in made.named_parameters()}

    def loss(x: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(made, leaves, (x,)).square().sum()
        return value

    with dense_gradients(made, "first.weight") as gradients:
        made(batch()).square().sum().backward()
        torch.func.grad(loss)(batch())
        torch.func.vmap(torch.func.grad(loss))(batch())
        torch.func.jvp(loss, (batch(),), (batch(),))
    torch.testing.assert_close(gradients["first.weight"][:], expected)


def test_an_error_inside_leaves_no_hook() -> None:
    made = net(KINDS["csr"])
    before = everything(made)
    with pytest.raises(KeyError, match="mine"), dense_gradients(made):
        raise KeyError("mine")
    assert everything(made) == before


def test_a_weight_without_passes_inside_is_refused() -> None:
    made = net(KINDS["dense"])
    with dense_gradients(made) as gradients:
        pass
    made(batch()).square().sum().backward()
    with pytest.raises(RuntimeError, match=r"needs a forward pass with 'first.weight' and its backward pass inside"):
        remask(made, {"first.weight": masks.rigl(0.5, gradients)}, optimizer=None)


def test_sparse_inputs_are_refused() -> None:
    layer: Any = register(nn.Linear(4, 3), {"weight": MaskedSparse(masks.random(density=0.5))})
    with dense_gradients(layer), pytest.raises(ValueError, match=r"needs dense inputs of 'weight'. Got one of layout"):
        layer(torch.eye(4).to_sparse())
