"""Stateful third-party parametrizations, below and above the constraints of this library."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal
from torch.nn.utils.parametrize import (
    register_parametrization,
    remove_parametrizations,
    transfer_parametrizations_and_params,
)
from typing_extensions import override

from parametrizations import MaskedSparse, ZeroDiagonal, bake, masks, register, remask, tune


class Normed(nn.Module):
    """Its inverse stores the norm of the weight: in an attribute, a list, a buffer, or a parameter."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.size, self.sizes = kind, 1.0, [1.0]
        self.register_buffer("buffered", torch.ones(()))
        self.trained = nn.Parameter(torch.ones(()))
        self.buffered: Tensor

    def norm(self) -> Any:
        return {"attribute": self.size, "list": self.sizes[0], "buffer": self.buffered}.get(self.kind, self.trained)

    @override
    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = x * self.norm()
        return weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        self.size = float(weight.norm())
        self.sizes[0] = float(weight.norm())
        if self.kind == "buffer":
            self.buffered = weight.norm()
        self.trained.data.copy_(weight.norm())
        stored: Tensor = weight / self.norm()
        return stored


KINDS = ["attribute", "list", "buffer", "parameter"]


@pytest.mark.parametrize("kind", KINDS)
def test_state_that_an_inverse_stores_in_its_step_is_kept(kind: str) -> None:
    layer = register_parametrization(nn.Linear(3, 3), "weight", Normed(kind))
    step, expected = layer.parametrizations.weight[0], layer.weight.detach().clone().fill_diagonal_(0)  # type: ignore[operator, index, union-attr]
    register(layer, {"weight": ZeroDiagonal()})
    torch.testing.assert_close(layer.weight, expected)
    assert layer.parametrizations.weight[0] is step  # type: ignore[index, union-attr]
    assert step.trained is layer.parametrizations.weight[0].trained  # type: ignore[index, union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_checkpoint_reaches_the_state_of_the_step(kind: str) -> None:
    layer = register(nn.Linear(3, 3), {"weight": Normed(kind)})
    layer.load_state_dict({"weight": torch.ones(3, 3), "bias": torch.zeros(3)})
    torch.testing.assert_close(layer.weight, torch.ones(3, 3))


class Scaled(nn.Module):
    """Multiplies by a shared buffer or by an own parameter."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = scale

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.scale


def test_a_buffer_that_steps_share_stays_shared() -> None:
    shared = torch.tensor(2.0)
    made: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    for layer in made:
        step: Any = Scaled(shared)
        del step.scale
        step.register_buffer("scale", shared)
        register_parametrization(layer, "weight", step)
    register(made, {"0.weight": ZeroDiagonal()})
    assert all(layer.parametrizations.weight[0].scale is shared for layer in made)


def test_a_parameter_of_a_step_stays_in_its_own_group_or_outside() -> None:
    for given in (True, False):
        layer: Any = register_parametrization(nn.Linear(3, 3), "weight", Scaled(nn.Parameter(torch.tensor(2.0))))
        stored, scale = layer.parametrizations.weight.original, layer.parametrizations.weight[0].scale
        groups: list[dict[str, Any]] = [
            {"params": [stored, layer.bias]},
            *([{"params": [scale], "lr": 0.0}] if given else []),
        ]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        register(layer, {"weight": ZeroDiagonal()}, optimizer=optimizer)
        held = [[id(one) for one in group["params"]] for group in optimizer.param_groups]
        assert held == [[id(stored), id(layer.bias)], *([[id(scale)]] if given else [])]


def test_a_removed_constraint_can_be_registered_again_without_a_garbage_collection() -> None:
    gc.disable()
    try:
        layer: Any = register(nn.Linear(3, 3), {"weight": ZeroDiagonal()})
        step = layer.parametrizations.weight[0]
        remove_parametrizations(layer, "weight")
        register_parametrization(layer, "weight", step)
        one, other = register(nn.Linear(3, 3), {"weight": ZeroDiagonal()}), nn.Linear(3, 3)
        transfer_parametrizations_and_params(one, other, "weight")
        bake(one, inplace=True)
        register(other, {"weight": nn.Identity()})
    finally:
        gc.enable()


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_step_that_cannot_be_copied_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"register cannot attach Locked to 'weight'\. cannot pickle"):
        register(nn.Linear(3, 3), {"weight": Locked()})
    layer = register_parametrization(nn.Linear(3, 3), "weight", Locked())
    with pytest.raises(TypeError, match=r"register cannot copy the parametrizations of 'weight'\. cannot pickle"):
        register(layer, {"weight": ZeroDiagonal()})


def test_a_child_with_the_name_of_pytorchs_list_is_refused() -> None:
    made: Any = nn.Linear(3, 3)
    made.parametrizations = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=r"without a child named 'parametrizations' for 'weight'. Got Linear"):
        register(made, {"weight": ZeroDiagonal()})


def test_one_of_two_inference_mode_layers_that_share_a_tensor_is_baked() -> None:
    with torch.inference_mode():
        made: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        for layer in made:
            register_parametrization(layer, "weight", Scaled(torch.tensor(2.0)))
        made[1].parametrizations.weight.original = made[0].parametrizations.weight.original
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    bake(made, "0.weight", inplace=True, optimizer=optimizer)
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert held == {id(one) for one in made.parameters()}


def test_a_failed_reset_leaves_the_state_of_a_step() -> None:
    class Two(nn.Module):
        bad = False

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3, 3))

        def reset_parameters(self) -> None:
            nn.init.normal_(self.a)
            nn.init.constant_(self.b, torch.nan if self.bad else 1.0)

    made: Any = Two()
    orthogonal(made, "a")
    register(made, {"b": ZeroDiagonal()})
    made.bad, before = True, made.a.detach().clone()
    with pytest.raises(ValueError, match="finite"):
        made.reset_parameters()
    assert torch.equal(made.a, before)


def test_a_mask_loaded_in_inference_mode_moves() -> None:
    layer = register(nn.Linear(3, 3), {"weight": MaskedSparse(masks.banded(1, 1))})
    with torch.inference_mode():
        layer.load_state_dict({key: value.clone() for key, value in layer.state_dict().items()}, assign=True)
    remask(layer, {"weight": masks.banded(0, 0)}, optimizer=None)
    assert layer.get_parameter("parametrizations.weight.original").numel() == 3


def test_tune_leaves_a_buffer_of_a_module_that_is_called_twice() -> None:
    norm = nn.BatchNorm1d(8)
    made = register(nn.Sequential(nn.Linear(8, 8), norm, nn.Linear(8, 8), norm), {"0.weight": ZeroDiagonal()})
    held, before = norm.running_mean, norm.running_mean.clone()  # type: ignore[union-attr]
    tune(made, torch.randn(4, 8))
    assert norm.running_mean is held
    assert torch.equal(held, before)  # type: ignore[arg-type]


class OwnAdagrad(torch.optim.Adagrad):
    """Adds an option."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.defaults["mine"] = 1
        for group in self.param_groups:
            group["mine"] = 1


def test_an_optimizer_with_further_options_is_taken() -> None:
    layer = nn.Linear(3, 3)
    optimizer = OwnAdagrad(layer.parameters())
    register(layer, {"weight": ZeroDiagonal()}, optimizer=optimizer)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
