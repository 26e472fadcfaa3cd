"""The weight of a chain of parametrizations, and the stored tensors for a given weight."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, masks, register
from parametrizations._models.constrained import Slot, constrained


def slot_of(layer: nn.Module) -> Slot:
    (slot,) = constrained(layer)
    return slot


def chain(*parametrizations: nn.Module, rows: int = 3) -> Slot:
    layer = nn.Linear(3, rows)
    if len(parametrizations) == 1:
        register_parametrization(layer, "weight", parametrizations[0])
    else:
        register(layer, {"weight": list(parametrizations)})
    return slot_of(layer)


@pytest.mark.parametrize(
    ("parametrizations", "expected"),
    [
        ([Diagonal()], True),
        ([MaskedSparse(masks.lower_triangular()), NegExpDiagonal()], True),
        ([ZeroDiagonal()], False),
        ([MaskedSparse(torch.ones(3, 3, dtype=torch.bool))], False),
        ([nn.Identity()], False),
    ],
)
def test_a_chain_is_compact_if_it_stores_fewer_numbers_than_the_weight(
    parametrizations: list[nn.Module], expected: bool
) -> None:
    assert chain(*parametrizations).is_compact is expected


def test_the_shape_is_known_or_computed_or_on_meta_that_of_the_stored_tensor() -> None:
    assert chain(Diagonal(), rows=4).shape == (4, 3)
    assert slot_of(weight_norm(nn.Linear(3, 4))).shape == (4, 3)
    assert slot_of(weight_norm(nn.Linear(3, 4, device="meta"))).shape == (4, 1)


def test_the_shape_does_not_materialise_the_weight() -> None:
    class Refuses(Diagonal):
        @override
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    layer = nn.Linear(3, 4)
    register_parametrization(layer, "weight", Refuses(), unsafe=True)
    assert slot_of(layer).shape == (4, 3)


def test_the_stored_tensor_is_found_through_all_inverses_last_first() -> None:
    both = chain(MaskedSparse(masks.lower_triangular()), NegExpDiagonal())
    weight = torch.tensor([[-1.0, 0, 0], [2, -1, 0], [3, 4, -1]])
    assert both.inverted(weight, project=False)["original"].tolist() == [0, 2, 0, 3, 4, 0]
    with pytest.raises(ValueError, match="NegExpDiagonal needs every entry on the main diagonal to be negative"):
        both.inverted(-weight, project=False)
    projected = both.inverted(weight.fill_diagonal_(5).triu(), project=True)["original"]
    torch.testing.assert_close(projected, torch.tensor([1.0, 0, 1, 0, 0, 1]) * math.log(5))


def test_a_tensor_inverted_in_inference_mode_can_be_trained() -> None:
    diagonal = chain(Diagonal())
    with torch.inference_mode():
        stored = diagonal.inverted(torch.eye(3), project=False)
    assert not stored["original"].is_inference()


def test_a_missing_inverse_is_the_identity_when_projecting_and_refused_otherwise() -> None:
    without = chain(nn.Identity())
    assert torch.equal(without.inverted(torch.eye(3), project=True)["original"], torch.eye(3))
    with pytest.raises(ValueError, match=r"Identity needs a method right_inverse to give this weight. Got none."):
        without.inverted(torch.eye(3), project=False)


def test_an_inverse_of_another_number_of_tensors_is_refused() -> None:
    class ThreeForTwo(nn.Module):
        count = 2

        @override
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return one + other

        def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
            return (weight / 2,) * self.count

    step = ThreeForTwo()
    several = chain(step)
    assert list(several.inverted(torch.eye(3), project=False)) == ["original0", "original1"]
    step.count = 3
    with pytest.raises(ValueError, match="ThreeForTwo needs to take what its inverse gives"):
        several.inverted(torch.eye(3), project=False)
