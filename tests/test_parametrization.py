"""The public behaviour that all parametrizations inherit from the base class."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import (
    register_parametrization,
    remove_parametrizations,
    transfer_parametrizations_and_params,
)

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Parametrization, ZeroDiagonal, masks
from tests.cases import checkerboard
from tests.layers import constrained, stored

FOUR: dict[str, Callable[[], Parametrization]] = {
    "Diagonal": Diagonal,
    "ZeroDiagonal": ZeroDiagonal,
    "NegExpDiagonal": NegExpDiagonal,
    "MaskedSparse": lambda: MaskedSparse(masks.random(density=0.3)),
}
every = pytest.mark.parametrize("make", FOUR.values(), ids=FOUR)


@every
def test_it_registers_on_an_existing_layer(make: Callable[[], Parametrization]) -> None:
    layer = register_parametrization(nn.Linear(7, 3), "weight", make())
    layer(torch.randn(2, 7)).square().sum().backward()
    assert isinstance(layer.weight, Tensor)
    assert layer.weight.shape == (3, 7)


@every
def test_it_registers_on_recurrent_weights(make: Callable[[], Parametrization]) -> None:
    rnn = register_parametrization(nn.RNN(3, 4), "weight_hh_l0", make())
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
    parametrization = rnn.get_submodule("parametrizations.weight_hh_l0.0")
    assert isinstance(parametrization, Parametrization)
    before = rnn.get_parameter("parametrizations.weight_hh_l0.original").detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        rnn(torch.randn(5, 2, 3))[0].square().sum().backward()
        optimizer.step()
    weight = rnn.weight_hh_l0
    assert isinstance(weight, Tensor)
    assert parametrization.contains(weight)
    assert not torch.equal(rnn.get_parameter("parametrizations.weight_hh_l0.original"), before)


@every
def test_it_registers_on_an_embedding(make: Callable[[], Parametrization]) -> None:
    embedding = register_parametrization(nn.Embedding(6, 4), "weight", make())
    assert isinstance(embedding.weight, Tensor)
    assert torch.equal(embedding(torch.arange(6)), embedding.weight)


@every
def test_it_registers_on_a_buffer(make: Callable[[], Parametrization]) -> None:
    module = nn.Module()
    module.register_buffer("weight", torch.randn(4, 4))
    register_parametrization(module, "weight", make())
    assert not list(module.parameters())
    parametrization = module.get_submodule("parametrizations.weight.0")
    assert isinstance(parametrization, Parametrization)
    assert isinstance(module.weight, Tensor)
    assert parametrization.contains(module.weight)


@every
def test_a_second_parameter_needs_a_second_object(make: Callable[[], Parametrization]) -> None:
    parametrization = make()
    first = register_parametrization(nn.Linear(4, 4), "weight", parametrization)
    for other in (nn.Linear(4, 4), nn.Linear(5, 3)):
        before = other.weight.detach().clone()
        with pytest.raises(ValueError, match=r"needs one object for each tensor. Got one already used"):
            register_parametrization(other, "weight", parametrization)
        assert type(other) is nn.Linear
        assert torch.equal(other.weight, before)
    twin = copy.deepcopy(first)
    with pytest.raises(ValueError, match="needs one object for each tensor"):
        register_parametrization(nn.Linear(4, 4), "weight", twin.get_submodule("parametrizations.weight.0"))


@every
def test_a_second_buffer_needs_a_second_object(make: Callable[[], Parametrization]) -> None:
    layer = register_parametrization(nn.Linear(4, 4), "weight", make())
    module = nn.Module()
    module.register_buffer("weight", torch.zeros(4, 4))
    with pytest.raises(ValueError, match="needs one object for each tensor"):
        register_parametrization(module, "weight", layer.get_submodule("parametrizations.weight.0"))


@every
def test_a_removed_object_can_be_registered_again(make: Callable[[], Parametrization]) -> None:
    parametrization, layer = make(), nn.Linear(4, 4)
    for module in (layer, layer, nn.Linear(4, 4)):
        register_parametrization(module, "weight", parametrization)
        weight = module.get_parameter("parametrizations.weight.original")
        assert parametrization.contains(parametrization(weight))
        with pytest.raises(ValueError, match="needs one object for each tensor"):
            register_parametrization(nn.Linear(4, 4), "weight", parametrization)
        remove_parametrizations(module, "weight")
    with pytest.raises(ValueError, match=r"needs a weight of shape \(4, 4\). Got \(3, 5\)"):
        register_parametrization(nn.Linear(5, 3), "weight", parametrization)


@every
def test_a_copy_of_an_object_alone_can_be_registered(make: Callable[[], Parametrization]) -> None:
    layer = register_parametrization(nn.Linear(4, 4), "weight", make())
    alone: Any = layer.get_submodule("parametrizations.weight.0")
    for copied in (copy.deepcopy(alone), pickle.loads(pickle.dumps(make()))):
        other = register_parametrization(nn.Linear(4, 4), "weight", copied)
        assert copied.contains(other.weight)


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {name: lambda make=make: [make()] for name, make in FOUR.items()} | {
    "chain": lambda: [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]
}


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_pytorch_can_transfer_it_to_another_module(make: Callable[[], list[nn.Module]]) -> None:
    layer: Any = nn.Linear(4, 4)
    for parametrization in make():
        register_parametrization(layer, "weight", parametrization)
    for plain in (nn.Linear(4, 4), nn.Module()):
        other: Any = transfer_parametrizations_and_params(layer, plain, "weight")
        assert torch.equal(layer.weight, other.weight)
        assert [*layer.parametrizations.weight] == [*other.parametrizations.weight]
        with pytest.raises(ValueError, match="needs one object for each tensor"):
            register_parametrization(nn.Linear(4, 4), "weight", parametrization)
    with pytest.raises(ValueError, match=r"needs a weight of shape \(4, 4\). Got \(3, 4\)"):
        transfer_parametrizations_and_params(layer, nn.Linear(4, 3), "weight")


def test_a_mask_that_is_loaded_reaches_the_module_it_was_transferred_to() -> None:
    first: Any = constrained(MaskedSparse(masks.banded(0, 0)), torch.randn(4, 4))
    second: Any = transfer_parametrizations_and_params(first, nn.Linear(4, 4, bias=False), "weight")
    saved = constrained(MaskedSparse(masks.lower_triangular()), torch.randn(4, 4))
    for module in (first, second):
        module.load_state_dict(saved.state_dict())
        assert torch.equal(first.weight, saved.weight)
        assert torch.equal(second.weight, saved.weight)


@every
def test_a_model_with_it_can_be_prepared_for_quantization(make: Callable[[], Parametrization]) -> None:
    model: Any = nn.Sequential(register_parametrization(nn.Linear(4, 4), "weight", make()))
    expected, quantization = model[0].weight, torch.ao.quantization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's warnings about quantization
        model.qconfig = quantization.get_default_qat_qconfig("x86")  # type: ignore[no-untyped-call]
        prepared = quantization.prepare_qat(model.train())  # type: ignore[no-untyped-call]
    assert torch.equal(prepared[0].weight, expected)
    prepared(torch.ones(1, 4)).sum().backward()


def test_on_top_of_another_tensor_it_needs_a_second_object_too() -> None:
    parametrization = ZeroDiagonal()
    first = register_parametrization(nn.Linear(4, 4), "weight", NegExpDiagonal())
    register_parametrization(first, "weight", parametrization)
    second = register_parametrization(nn.Linear(4, 4), "weight", NegExpDiagonal())
    with pytest.raises(ValueError, match="needs one object for each tensor"):
        register_parametrization(second, "weight", parametrization)


def test_a_deep_copy_of_a_layer_is_a_tensor_of_its_own() -> None:
    layer = constrained(Diagonal(), torch.randn(4, 4))
    twin = copy.deepcopy(layer)
    twin.weight = torch.eye(4)
    assert not torch.equal(layer.weight, torch.eye(4))


@pytest.mark.parametrize("make", [Diagonal, lambda: MaskedSparse(checkerboard((4, 4)))])
def test_a_constraint_that_stores_another_shape_must_come_first(make: Callable[[], Parametrization]) -> None:
    layer = register_parametrization(nn.Linear(4, 4), "weight", ZeroDiagonal())
    assert isinstance(layer.weight, Tensor)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"needs to be the first parametrization of its tensor"):
        register_parametrization(layer, "weight", make())
    assert torch.equal(layer.weight, before)


def test_a_chain_of_two_keeps_both_rules() -> None:
    layer = constrained(MaskedSparse(masks.lower_triangular()), torch.randn(5, 5))
    register_parametrization(layer, "weight", NegExpDiagonal())
    torch.optim.SGD(layer.parameters(), lr=1.0).step(lambda: layer(torch.randn(3, 5)).square().sum().backward())
    weight = layer.weight.detach()
    assert not bool(weight.triu(1).any())
    assert bool((torch.linalg.eigvals(weight).real < 0).all())


def test_assigning_to_a_chain_goes_through_both_and_refuses_for_both() -> None:
    layer = constrained(MaskedSparse(masks.lower_triangular()), torch.randn(3, 3))
    register_parametrization(layer, "weight", NegExpDiagonal())
    member = -torch.tensor([[1.0, 0.0, 0.0], [2.0, 3.0, 0.0], [4.0, 5.0, 6.0]])
    layer.weight = member
    torch.testing.assert_close(layer.weight, member, rtol=4e-7, atol=0.0)
    before = stored(layer).detach().clone()
    with pytest.raises(ValueError, match="NegExpDiagonal needs every entry on the main diagonal to be negative"):
        layer.weight = -member
    with pytest.raises(ValueError, match="MaskedSparse needs every entry outside the mask to be 0"):
        layer.weight = member.mT
    assert torch.equal(stored(layer), before)


def test_an_unsafe_second_registration_still_checks_assignments() -> None:
    layer = constrained(ZeroDiagonal(), torch.randn(3, 3))
    register_parametrization(layer, "weight", NegExpDiagonal(), unsafe=True)
    with pytest.raises(ValueError, match="NegExpDiagonal needs every entry on the main diagonal to be negative"):
        layer.weight = torch.ones(3, 3)


@pytest.mark.parametrize(
    ("parametrization", "rule", "count"),
    [
        (Diagonal(), "Diagonal needs every entry off the main diagonal to be 0", 6),
        (ZeroDiagonal(), "ZeroDiagonal needs every entry on the main diagonal to be 0", 3),
        (NegExpDiagonal(), "NegExpDiagonal needs every entry on the main diagonal to be negative", 3),
        (
            MaskedSparse(masks.lower_triangular()),
            "MaskedSparse needs every entry outside the mask to be 0",
            3,
        ),
    ],
)
def test_the_error_for_a_weight_outside_gives_rule_count_largest_and_remedy(
    parametrization: Parametrization, rule: str, count: int
) -> None:
    layer = constrained(parametrization, torch.zeros(3, 3))
    weight = torch.ones(3, 3)
    weight[0, 2] = weight[1, 1] = -7.5 if isinstance(parametrization, Diagonal | MaskedSparse) else 7.5
    with pytest.raises(ValueError, match=rule) as raised:
        layer.weight = weight
    text = str(raised.value)
    assert f"{count} of 9 entries break this, the worst {weight[1, 1].item()} at row" in text
    assert "Assign a weight that keeps the rule, such as what project(weight)" in text
    layer.weight = layer.parametrizations.weight[0].project(weight)


@every
def test_on_request_assignment_projects(make: Callable[[], Parametrization]) -> None:
    parametrization = make()
    parametrization.on_infeasible = "project"
    layer = constrained(parametrization, torch.randn(4, 3))
    layer.weight = torch.ones(4, 3)
    assert parametrization.contains(layer.weight)
    assert torch.equal(layer.weight, parametrization.project(torch.ones(4, 3)))


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (
            torch.ones(4, 3, dtype=torch.int64),
            TypeError,
            r"needs a weight of dtype float16, .* Got torch.int64",
        ),
        (torch.ones(4, 3, dtype=torch.bool), TypeError, r"needs a weight of dtype .* Got torch.bool"),
        (
            torch.ones(12),
            ValueError,
            r"needs a weight (with 2 dimensions. Got 1, of shape|of shape \(4, 3\). Got) \(12,\)",
        ),
        (
            torch.ones(2, 4, 3),
            ValueError,
            r"needs a weight (with 2 dimensions. Got 3, of shape|of shape \(4, 3\). Got) \(2, 4, 3\)",
        ),
        (
            torch.full((4, 3), torch.nan),
            ValueError,
            r"needs a finite weight. Got NaN or infinity in 12 of 12 entries",
        ),
        (
            torch.ones(4, 3).fill_diagonal_(torch.inf),
            ValueError,
            r"needs a finite weight. Got NaN or infinity in 3 of 12 entries",
        ),
        (torch.ones(4, 3).to_sparse(), TypeError, r"needs a dense tensor. Got torch.sparse_coo"),
    ],
    ids=["int64", "bool", "1-D", "3-D", "NaN", "inf", "sparse"],
)
@every
def test_bad_weights_are_refused_before_anything_changes(
    make: Callable[[], Parametrization], weight: Tensor, error: type[Exception], message: str
) -> None:
    layer = constrained(make(), torch.randn(4, 3))
    before = stored(layer).detach().clone()
    with pytest.raises(error, match=message):
        layer.weight = weight
    assert torch.equal(stored(layer), before)
    if make().dims is None and weight.dim() != 2:  # a weight of its own
        return
    module = nn.Module()
    module.register_buffer("weight", weight)
    with pytest.raises(error, match=message):
        register_parametrization(module, "weight", make())
    assert type(module) is nn.Module


@every
def test_another_shape_is_refused(make: Callable[[], Parametrization]) -> None:
    layer = constrained(make(), torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"needs a weight of shape \(4, 3\). Got \(3, 4\)"):
        layer.weight = torch.ones(3, 4)


@every
def test_a_non_tensor_is_refused(make: Callable[[], Parametrization]) -> None:
    layer = constrained(make(), torch.randn(4, 3))
    with pytest.raises(TypeError, match=r"needs a dense tensor. Got list"):
        layer.parametrizations.weight[0].right_inverse([[1.0]])


@every
def test_an_unknown_policy_is_refused(make: Callable[[], Parametrization]) -> None:
    options: dict[str, Any] = make().options() | {"on_infeasible": "ignore"}
    with pytest.raises(ValueError, match=r"needs on_infeasible to be 'raise' or 'project'. Got 'ignore'"):
        type(make())(**options)


def test_before_registration_it_says_that_it_needs_a_weight() -> None:
    with pytest.raises(ValueError, match=r"Diagonal needs to know its weight. Got no weight yet. Register it"):
        Diagonal()(torch.ones(3))
    with pytest.raises(ValueError, match=r"MaskedSparse needs to know its weight"):
        _ = MaskedSparse(masks.random(density=0.5)).mask


def test_repr_shows_options_shape_and_stored_numbers() -> None:
    assert repr(Diagonal()) == "Diagonal(on_infeasible='raise', product='auto', not registered)"
    layer = constrained(Diagonal(on_infeasible="project"), torch.randn(4, 3))
    assert (
        repr(layer.parametrizations.weight[0])
        == "Diagonal(on_infeasible='project', product='auto', shape=(4, 3), stored=3)"
    )


class Passing(Diagonal):
    def __init__(self, size: int, linear: str, **options: Any) -> None:  # noqa: ARG002
        super().__init__(**options)
        self.size = size


def test_repr_shows_the_options_that_are_passed_on_and_no_method() -> None:
    expected = "Passing(size=3, on_infeasible='raise', product='dense', not registered)"
    assert repr(Passing(3, "not kept", product="dense")) == expected


def test_contains_takes_a_tolerance() -> None:
    parametrization = ZeroDiagonal()
    weight = torch.ones(2, 2).fill_diagonal_(1e-3)
    assert not parametrization.contains(weight)
    assert parametrization.contains(weight, atol=1e-2)
    assert not parametrization.contains(torch.zeros(2, 2, 2))


@every
def test_it_can_be_removed_and_replaced(make: Callable[[], Parametrization]) -> None:
    layer = register_parametrization(nn.Linear(4, 4), "weight", make())
    remove_parametrizations(layer, "weight")
    register_parametrization(layer, "weight", ZeroDiagonal())
    assert isinstance(layer.weight, Tensor)
    assert not bool(layer.weight.diagonal().any())


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e3, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e3, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e3, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e3, momentum=0.9, weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e3, weight_decay=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=1e3, max_iter=2),
}


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@every
def test_200_absurd_steps_leave_the_constraint_exact(make: Callable[[], Parametrization], optimizer_name: str) -> None:
    layer = constrained(make(), torch.randn(5, 4))
    parametrization, inputs = layer.parametrizations.weight[0], torch.randn(8, 4)
    optimizer = OPTIMIZERS[optimizer_name]([stored(layer)])

    def closure() -> float:
        optimizer.zero_grad()
        loss = layer(inputs).square().mean()
        loss.backward()
        return float(loss.detach())

    for step in range(200):
        optimizer.step(closure)
        weight = layer.weight.detach()
        # Structural zeros are exact and no diagonal is positive, even once the stored numbers are not finite.
        assert not bool((parametrization.excess(weight).nan_to_num(nan=0.0, posinf=0.0) > 0).any()), step
        if bool(stored(layer).isfinite().all()):
            assert bool(weight.isfinite().all()), step
            assert parametrization.contains(weight), step


class Unfinished(Parametrization):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def test_a_missing_method_is_reported_as_missing() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(
        TypeError, match=r"Unfinished needs methods .* Got no excess, no project. Write def excess\(self, weight\)"
    ):
        register_parametrization(layer, "weight", Unfinished())
    assert type(layer) is nn.Linear


def test_a_refused_registration_claims_nothing() -> None:
    parametrization = MaskedSparse(masks.block_diagonal(2))
    with pytest.raises(ValueError, match="with sides divisible by 2"):
        register_parametrization(nn.Linear(4, 3), "weight", parametrization)
    assert parametrization.shape is None
    register_parametrization(nn.Linear(4, 4), "weight", parametrization)


@every
def test_a_weight_that_cannot_be_assigned_is_not_contained(make: Callable[[], Parametrization]) -> None:
    parametrization = constrained(make(), -torch.eye(3)).parametrizations.weight[0]
    for other in (torch.zeros(3, 3).int(), torch.zeros(3, 3).to_sparse(), torch.zeros(3, 3, dtype=torch.bool)):
        assert not parametrization.contains(other)
    with pytest.raises(ValueError, match=r"needs values in contains. Got a weight on the meta device"):
        parametrization.contains(torch.empty(3, 3, device="meta"))


class Renamed(ZeroDiagonal):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale


def test_repr_omits_arguments_without_an_attribute() -> None:
    assert repr(Renamed(2.0)) == "Renamed(not registered)"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("linear", nn.Linear(3, 3), "the name 'linear' for a method. Got a Linear"),
        ("options", {"rank": 3}, "the name 'options' for a method. Got a dict"),
        ("explain", Path("weights"), "the name 'explain' for a method"),
        ("project", nn.Identity(), "the name 'project' for a method"),
        (
            "stored_shape",
            "square",
            "the name 'stored_shape' for a property. Got a str .* such as 'own_stored_shape'; pass options",
        ),
        ("product", nn.Linear(3, 3), "the name 'product' for a property. Got a Linear"),
        ("stored_shape", nn.Linear(3, 3), "the name 'stored_shape' for a property"),
        ("_check", True, "the name '_check' for a method"),
        ("linear", nn.Parameter(torch.ones(3)), "the name 'linear' for a method. Got a Parameter"),
    ],
)
def test_assigning_an_attribute_that_hides_a_member_is_refused(name: str, value: Any, message: str) -> None:
    class Own(ZeroDiagonal):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, value)

    with pytest.raises(AttributeError, match=f"Own needs {message}"):
        Own()


def test_a_function_may_take_the_place_of_a_method_and_an_own_property_may_be_set() -> None:
    class Own(ZeroDiagonal):
        scale = 1.0

        @property
        def rank(self) -> int:
            return self._rank

        @rank.setter
        def rank(self, rank: int) -> None:
            self._rank = rank

    made: Any = Own()
    forward = made.forward
    made.forward, made.rank, made.scale = (lambda x: 2 * forward(x)), 3, 2.0
    layer = constrained(made, torch.ones(3, 3))
    assert torch.equal(layer.weight, 4 * (1 - torch.eye(3)))  # once in the projection, once on access
    assert (made.rank, made.scale) == (3, 2.0)
