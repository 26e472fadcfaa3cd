"""`summary`: rows, a table, a page; also of third-party parametrizations and of unmaterialised weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    masks,
    plain_state_dict,
    register,
    summary,
)


def model() -> Any:
    made: Any = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abcd"} | {"rnn": nn.RNN(4, 4)})
    register(made, {"a.weight": Diagonal(), "b.weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]})
    register(made, {"rnn.weight_hh_l0": ZeroDiagonal()})
    register_parametrization(made["c"], "weight", ZeroDiagonal())
    weight_norm(made["d"])
    return made


def test_a_row_describes_a_constrained_weight() -> None:
    rows = {row.name: row[1:] for row in summary(model()).rows}
    assert rows == {
        "a.weight": ("Diagonal", (4, 4), 4, 16, True, "elementwise"),
        "b.weight": ("MaskedSparse, then NegExpDiagonal", (4, 4), 10, 16, True, "dense"),
        "rnn.weight_hh_l0": ("ZeroDiagonal", (4, 4), 16, 16, True, "dense"),
        "c.weight": ("ZeroDiagonal", (4, 4), 16, 16, True, "dense"),
        "d.weight": ("_WeightNorm (foreign)", (4, 4), 20, 16, None, "dense"),
    }


def test_it_prints_as_a_table_and_as_a_page() -> None:
    made = summary(register(nn.Linear(3, 2), {"weight": ZeroDiagonal()}))
    head = "name    constraint    shape   stored  dense  holds  product"
    assert str(made) == repr(made) == f"{head}\nweight  ZeroDiagonal  (2, 3)  6       6      yes    dense"
    assert "<th>constraint</th>" in made._repr_html_()
    assert "<td>ZeroDiagonal</td>" in made._repr_html_()
    assert summary(nn.Linear(2, 2))._repr_html_().startswith("No parametrized tensors.")
    assert str(summary(nn.Linear(2, 2))).startswith("No parametrized tensors.")


def test_broken_constraints_are_reported() -> None:
    made = model()
    with torch.no_grad():
        made["a"].parametrizations.weight.original[0] = torch.inf
        made["c"].parametrizations.weight.original[0, 1] = torch.nan
    rows = {row.name: row.holds for row in summary(made).rows}
    assert rows["a.weight"] is rows["c.weight"] is False
    assert "NO" in str(summary(made))


def test_a_chain_holds_if_each_of_its_constraints_does() -> None:
    clash = register_parametrization(nn.Linear(3, 3), "weight", MaskedSparse(masks.lower_triangular(-1)))
    register_parametrization(clash, "weight", NegExpDiagonal())
    assert [row.holds for row in summary(clash).rows] == [False]  # one of them needs a zero diagonal
    foreign = register(nn.Linear(3, 3), {"weight": [nn.Identity(), ZeroDiagonal()]})
    assert [row.holds for row in summary(foreign).rows] == [True]
    foreign = register(nn.Linear(3, 3), {"weight": [ZeroDiagonal(), nn.Identity()]})
    assert [row.holds for row in summary(foreign).rows] == [None]


def test_a_third_party_parametrization_without_values_is_listed() -> None:
    made = orthogonal(nn.Linear(3, 3)).to("meta")
    row = summary(made).rows[0]
    assert (row.shape, row.holds) == ((3, 3), None)


def test_the_shape_is_known_or_computed_or_on_meta_that_of_the_stored_tensor() -> None:
    made = [register(nn.Linear(3, 4), {"weight": Diagonal()}), weight_norm(nn.Linear(3, 4))]
    made.append(weight_norm(nn.Linear(3, 4, device="meta")))
    assert [row.shape for row in summary(nn.Sequential(*made)).rows] == [(4, 3), (4, 3), (4, 1)]


def test_a_tensor_of_integers_is_listed() -> None:
    module = nn.Module()
    module.register_buffer("places", torch.arange(3))
    register_parametrization(module, "places", nn.Identity())
    assert [row.shape for row in summary(module).rows] == [(3,)]


def test_another_child_with_the_name_of_pytorchs_list_is_not_listed() -> None:
    module = nn.Module()
    module.parametrizations = nn.ModuleDict({"weight": nn.Identity()})
    assert summary(module).rows == ()


class Uncopied(nn.Parameter):
    @override
    def __deepcopy__(self, memo: object) -> Uncopied:
        raise AssertionError


@pytest.mark.parametrize("call", [summary, plain_state_dict])
def test_stored_tensors_are_not_copied(call: Callable[[nn.Module], object]) -> None:
    layer: Any = register(nn.Linear(3, 3), {"weight": [nn.Identity(), ZeroDiagonal()]})
    layer.parametrizations.weight.original = Uncopied(layer.parametrizations.weight.original.detach())
    call(layer)


def test_a_compactly_stored_weight_is_never_materialised() -> None:
    with torch.device("meta"):
        made: Any = nn.Sequential(register(nn.Linear(2**20, 2**20), {"weight": Diagonal()}), nn.Linear(3, 3))
        register(made, {"1.weight": ZeroDiagonal()})
    assert [row.holds for row in summary(made).rows] == [None, None]  # no values yet
    made[0].to_empty(device="cpu")
    made[0].reset_parameters()
    row = summary(made).rows[0]
    assert (row.stored, row.dense, row.holds) == (2**20, 2**40, True)


def test_a_non_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"summary needs a model. Got dict"):
        summary({})  # type: ignore[arg-type]
