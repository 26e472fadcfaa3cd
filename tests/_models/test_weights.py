"""What a chain of parametrizations gives, and what has to be stored for it to give a weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, masks, register
from parametrizations._models.weights import dense_shape, is_compact, settle, stored_for
from parametrizations._torch.chains import build, chain_of, originals


def chain(*parametrizations: nn.Module, rows: int = 3) -> ParametrizationList:
    layer = nn.Linear(3, rows)
    if len(parametrizations) == 1:
        register_parametrization(layer, "weight", parametrizations[0])
    else:
        register(layer, {"weight": list(parametrizations)})
    return chain_of(layer, "weight")


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
def test_compact_is_what_stores_fewer_numbers_than_the_weight_has(
    parametrizations: list[nn.Module], expected: bool
) -> None:
    assert is_compact(chain(*parametrizations)) is expected


def test_the_shape_is_known_or_built_and_without_values_that_of_what_is_stored() -> None:
    assert dense_shape(chain(Diagonal(), rows=4)) == (4, 3)
    assert dense_shape(chain_of(weight_norm(nn.Linear(3, 4)), "weight")) == (4, 3)
    assert dense_shape(chain_of(weight_norm(nn.Linear(3, 4, device="meta")), "weight")) == (4, 1)


def test_what_would_not_be_built_is_not_built_for_its_shape() -> None:
    class Refuses(Diagonal):
        @override
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    layer = nn.Linear(3, 4)
    register_parametrization(layer, "weight", Refuses(), unsafe=True)
    assert dense_shape(chain_of(layer, "weight")) == (4, 3)


def test_what_is_stored_is_found_through_all_inverses_the_last_first() -> None:
    both = chain(MaskedSparse(masks.lower_triangular()), NegExpDiagonal())
    weight = torch.tensor([[-1.0, 0, 0], [2, -1, 0], [3, 4, -1]])
    assert stored_for(both, weight, project=False)["original"].tolist() == [0, 2, 0, 3, 4, 0]
    with pytest.raises(ValueError, match="NegExpDiagonal needs every entry on the main diagonal to be negative"):
        stored_for(both, -weight, project=False)
    settle(both, weight.fill_diagonal_(5).triu())
    assert torch.equal(build(both), torch.diag(build(both).diagonal()))
    torch.testing.assert_close(build(both).diagonal(), torch.full((3,), -5.0))


def test_what_is_settled_in_inference_mode_trains_afterwards() -> None:
    diagonal = chain(Diagonal())
    with torch.inference_mode():
        stored = stored_for(diagonal, torch.eye(3), project=False)
    assert not stored["original"].is_inference()


def test_a_missing_inverse_is_none_needed_where_the_set_is_entered_else_refused() -> None:
    without = chain(nn.Identity())
    assert torch.equal(stored_for(without, torch.eye(3), project=True)["original"], torch.eye(3))
    with pytest.raises(ValueError, match=r"Identity needs a method right_inverse to give this weight. Got none."):
        stored_for(without, torch.eye(3), project=False)


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
    assert list(stored_for(several, torch.eye(3), project=False)) == ["original0", "original1"]
    step.count = 3
    with pytest.raises(ValueError, match="ThreeForTwo needs to take what its inverse gives"):
        stored_for(several, torch.eye(3), project=False)


def test_settling_gives_the_weight_to_the_parameter_that_is_there() -> None:
    zero_diagonal = chain(ZeroDiagonal())
    before = originals(zero_diagonal)["original"]
    settle(zero_diagonal, torch.ones(3, 3))
    assert originals(zero_diagonal)["original"] is before
    assert torch.equal(build(zero_diagonal), 1 - torch.eye(3))
