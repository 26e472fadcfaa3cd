"""Chains, the parametrizations of one tensor: finding them, and the weight of a copied chain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations._models.constrained import constrained
from parametrizations._torch.chains import chains, copied, originals


class Scaled(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_another_child_named_parametrizations_is_not_a_chain() -> None:
    module = nn.Module()
    module.parametrizations = nn.ModuleDict({"weight": nn.Identity()})
    assert chains(module) == {}


def test_a_scripted_module_has_no_chain() -> None:
    assert chains(torch.jit.script(nn.Sequential(nn.Linear(2, 2)))) == {}


def test_copies_share_the_stored_tensors() -> None:
    layer = register_parametrization(nn.Linear(2, 2), "weight", nn.Identity())
    chain = chains(layer)["weight"]
    stored, given = originals(chain)["original"], {"original": torch.ones(2, 2)}
    assert originals(copied(chain))["original"].data_ptr() == stored.data_ptr()
    (slot,) = constrained(layer)
    assert slot.materialised().data_ptr() == stored.data_ptr()
    assert slot.materialised(given).data_ptr() == given["original"].data_ptr()


def test_a_chain_without_values_takes_all_of_them_from_a_state_dict() -> None:
    layer: Any = register_parametrization(nn.Linear(2, 2, device="meta"), "weight", Scaled().to("meta"))
    state = {"original": torch.ones(2, 2), "0.scale": torch.tensor(3.0)}
    (slot,) = constrained(layer)
    assert slot.materialised(state).tolist() == [[3, 3], [3, 3]]
    assert originals(chains(layer)["weight"])["original"].is_meta


def test_a_tensor_of_integers_is_materialised_too() -> None:
    module = nn.Module()
    module.register_buffer("places", torch.arange(3))
    register_parametrization(module, "places", nn.Identity())
    (slot,) = constrained(module)
    assert slot.materialised().tolist() == [0, 1, 2]
