"""The stored tensors of a chain of parametrizations for a given weight: on registering, and from a plain checkpoint."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, masks, register


def chain(*steps: nn.Module, weight: Tensor | None = None) -> Any:
    layer = nn.Linear(3, 3, bias=False)
    layer.load_state_dict({"weight": torch.eye(3) if weight is None else weight})
    return register(layer, {"weight": steps})


def test_the_stored_tensor_is_found_through_all_inverses_last_first() -> None:
    both = chain(MaskedSparse(masks.lower_triangular()), NegExpDiagonal())
    weight = torch.tensor([[-1.0, 0, 0], [2, -1, 0], [3, 4, -1]])
    both.load_state_dict({"weight": weight})
    assert both.parametrizations.weight.original.tolist() == [0, 2, 0, 3, 4, 0]
    with pytest.raises(RuntimeError, match="NegExpDiagonal needs every entry on the main diagonal to be negative"):
        both.load_state_dict({"weight": -weight})
    assert both.parametrizations.weight.original.tolist() == [0, 2, 0, 3, 4, 0]


def test_registering_projects_through_all_steps() -> None:
    weight = torch.tensor([[5.0, 6, 7], [0, 5, 8], [0, 0, 5]])
    both = chain(MaskedSparse(masks.lower_triangular()), NegExpDiagonal(), weight=weight)
    torch.testing.assert_close(
        both.parametrizations.weight.original.detach(), torch.tensor([1.0, 0, 1, 0, 0, 1]) * math.log(5)
    )


@pytest.mark.parametrize("step", [Diagonal, nn.Identity])
def test_a_tensor_inverted_in_inference_mode_can_be_trained(step: type[nn.Module]) -> None:
    diagonal = nn.Linear(3, 3)
    with torch.inference_mode():
        register(diagonal, {"weight": step()})
        assert not diagonal.get_parameter("parametrizations.weight.original").is_inference()


def test_a_plain_checkpoint_assigned_in_inference_mode_can_be_trained() -> None:
    diagonal = chain(Diagonal())
    with torch.inference_mode():
        diagonal.load_state_dict({"weight": 2 * torch.eye(3)}, assign=True)
    assert diagonal.parametrizations.weight.original.tolist() == [2, 2, 2]
    assert not diagonal.parametrizations.weight.original.is_inference()


def test_a_missing_inverse_is_the_identity_on_registering_and_refused_on_loading() -> None:
    without = chain(nn.Identity())
    assert torch.equal(without.parametrizations.weight.original, torch.eye(3))
    message = r"Identity needs a right_inverse to compute its input from this weight. Got none."
    with pytest.raises(RuntimeError, match=message):
        without.load_state_dict({"weight": torch.eye(3)})


def test_an_inverse_of_another_number_of_tensors_is_refused() -> None:
    class ThreeForTwo(nn.Module):
        count = 2

        @override
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return one + other

        def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
            return (weight / 2,) * self.count

    several = chain(ThreeForTwo())
    several.load_state_dict({"weight": 4 * torch.eye(3)})
    assert several.parametrizations.weight.original0.trace() == several.parametrizations.weight.original1.trace() == 6
    several.parametrizations.weight[0].count = 3
    with pytest.raises(RuntimeError, match="ThreeForTwo needs to accept the result of its right_inverse"):
        several.load_state_dict({"weight": torch.eye(3)})
