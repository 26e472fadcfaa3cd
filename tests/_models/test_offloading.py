"""Models that accelerate has offloaded: registered before, and calls that need the values of a weight."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from torch import nn

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
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

INPUT = torch.linspace(-1, 1, 24).view(3, 8)
CPU = torch.device("cpu")

Offload = Callable[[Any, Path], Any]


def dispatched(model: nn.Module, folder: Path) -> object:
    devices = {str(index): "disk" if index % 2 else "cpu" for index in range(4)}
    return dispatch_model(model, devices, main_device="cpu", offload_dir=str(folder))


OFFLOADS: dict[str, Offload] = {
    "cpu_offload": lambda model, _: cpu_offload(model, execution_device=CPU),
    "disk_offload": lambda model, folder: disk_offload(model, str(folder), execution_device=CPU),
    "dispatch_model": dispatched,
}
every_offload = pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)


def plain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))


def constrained() -> Any:
    lower = MaskedSparse(masks.lower_triangular(), product="strips")
    rules = {"0.weight": ZeroDiagonal(), "1.weight": NegExpDiagonal(), "2.weight": Diagonal(), "3.weight": lower}
    return register(plain(), rules)


@every_offload
def test_the_output_is_that_of_the_model_in_memory(offload: Offload, tmp_path: Path) -> None:
    model = constrained()
    expected = model(INPUT)
    model = offload(model, tmp_path)
    for _ in range(2):
        torch.testing.assert_close(model(INPUT), expected)
    torch.testing.assert_close(copy.deepcopy(model)(INPUT), expected)
    assert {explain(layer).product for layer in model} == {"dense"}
    assert [row.holds for row in summary(model).rows][1] is None  # its values are elsewhere
    remove_hook_from_submodules(model)
    torch.testing.assert_close(model(INPUT), expected)
    assert [row.holds for row in summary(model).rows] == [True] * 4


CALLS: dict[str, Callable[[Any], object]] = {
    "register": lambda model: register(model, {"1.weight": MaskedSparse(masks.lower_triangular())}),
    "bake": bake,
    "bake in place": partial(bake, inplace=True),
    "plain_state_dict": plain_state_dict,
    "remask": lambda model: remask(model, {"3.weight": masks.random(density=0.2)}, optimizer=None),
    "tune": lambda model: tune(model, INPUT),
    "Linear.reset_parameters": lambda model: model[1].reset_parameters(),
    "load_state_dict": lambda model: model.load_state_dict(plain_state_dict(constrained())),
}


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # PyTorch's, for the bias
@every_offload
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_needs_the_values_says_so(offload: Offload, call: str, tmp_path: Path) -> None:
    model = constrained()
    expected = model(INPUT)
    model = offload(model, tmp_path)
    needs = f"{call.removesuffix(' in place')} needs the values of .* that accelerate has offloaded"
    with pytest.raises((ValueError, RuntimeError), match=needs):
        CALLS[call](model)
    torch.testing.assert_close(model(INPUT), expected)


def test_a_model_whose_blocks_are_loaded_as_a_whole_says_so() -> None:
    model = nn.Sequential(constrained())
    expected = model(INPUT)
    cpu_offload(model, execution_device=CPU, preload_module_classes=["Sequential"])
    for call in (
        bake,
        plain_state_dict,
        lambda model: register(model, {"0.1.weight": MaskedSparse(masks.banded(1, 1))}),
    ):
        with pytest.raises(ValueError, match="that accelerate has offloaded"):
            call(model)
    torch.testing.assert_close(model(INPUT), expected)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_constrained_checkpoint_does_not_load_into_an_offloaded_model() -> None:
    model, other = constrained(), constrained()
    with torch.no_grad():
        other[3].parametrizations.weight.original.mul_(2)
    expected = model(INPUT)
    cpu_offload(model, execution_device=CPU)
    with pytest.raises(RuntimeError, match=r"load_state_dict needs the values of '3.weight'"):
        model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(INPUT), expected)


@every_offload
def test_an_offloaded_plain_model_cannot_be_constrained(offload: Offload, tmp_path: Path) -> None:
    model = plain()
    expected = model(INPUT)
    model = offload(model, tmp_path)
    with pytest.raises(ValueError, match=r"register needs the values of '1.weight'.*remove_hook_from_submodules"):
        register(model, {"1.weight": ZeroDiagonal()})
    torch.testing.assert_close(model(INPUT), expected)
    remove_hook_from_submodules(model)
    assert not register(model, {"1.weight": ZeroDiagonal()})[1].weight.diagonal().any()


def test_a_model_with_hooks_alone_can_be_constrained_and_baked() -> None:
    model = dispatch_model(plain(), {"": "cpu"}, main_device="cpu", force_hooks=True)
    register(model, {"*.weight": ZeroDiagonal()})
    expected = model(INPUT)
    torch.testing.assert_close(bake(model)(INPUT), expected)
    model = dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)
    torch.testing.assert_close(model(INPUT), expected)
    torch.testing.assert_close(bake(model)(INPUT), expected)
