"""Parameters that an attribute refers to, and parametrizations that refer to other modules of the model."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _Orthogonal, orthogonal
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import MaskedSparse, ZeroDiagonal, bake, masks, plain_state_dict, register


class Cell(nn.Module):
    """A recurrent cell that reads its weight from ``held``, as liquid time-constant cells do."""

    held: Any

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 3))


HELD: dict[str, Any] = {
    "the tensor": lambda w: w,
    "a dictionary": lambda w: {"w": w},
    "a list": lambda w: [w],
    "a tuple": lambda w: (None, w),
    "a set": lambda w: {w},
    "a dictionary of lists": lambda w: {"all": [0, w]},
    "a deque": lambda w: deque([w]),
}


@pytest.mark.parametrize("hold", HELD.values(), ids=HELD)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["its module", "another module"])
def test_a_parameter_that_another_attribute_holds_is_refused(hold: Any, elsewhere: bool) -> None:
    model = nn.ModuleDict({"cell": Cell(), "other": Cell()})
    cell: Any = model["cell"]
    holder = "other" if elsewhere else "cell"
    vars(model[holder])["held"] = hold(cell.w)
    with pytest.raises(ValueError, match=f"only its owner holds, for 'cell.w'.*'{holder}.held' of Cell"):
        register(model, {"cell.w": ZeroDiagonal()})
    assert type(cell) is Cell
    del vars(model[holder])["held"]
    register(model, {"cell.w": ZeroDiagonal()})


def test_a_parameter_that_is_also_a_buffer_is_refused() -> None:
    model = nn.ModuleDict({"cell": Cell(), "other": Cell()})
    model["other"].register_buffer("same", model["cell"].w)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"only its owner holds, for 'cell.w'.*'other.same' of Cell"):
        register(model, {"cell.w": ZeroDiagonal()})


def test_a_dictionary_with_other_values_is_not_evaluated() -> None:
    class Lazy(dict[str, Tensor]):
        @override
        def values(self) -> Any:
            raise AssertionError("evaluated")

    model = Cell()
    model.held = Lazy()
    assert not register(model, {"w": ZeroDiagonal()}).w.diagonal().any()


def test_other_references_are_accepted() -> None:
    model: Any = nn.ModuleDict({"lstm": nn.LSTM(3, 3), "cell": Cell()})
    model["cell"].held = [model["lstm"], model["cell"].w.detach()]
    optimizer = torch.optim.SGD(model.parameters())
    vars(model)["optimizer"] = optimizer
    register(model, {"lstm.weight_hh_l0": MaskedSparse(masks.magnitude(density=0.5)), "cell.w": ZeroDiagonal()})
    output, _ = model["lstm"](torch.ones(2, 3))
    assert output.shape == (2, 3)


class TransposeOf(nn.Module):
    """The transposed weight of another layer, as in tied autoencoders."""

    def __init__(self, layer: nn.Module, *, as_child: bool) -> None:
        super().__init__()
        self.layer: Any = [layer]
        self.child = layer if as_child else None

    @override
    def forward(self, _: Tensor) -> Tensor:
        weight: Tensor = self.layer[0].weight.T
        return weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def autoencoder() -> Any:
    layers = {name: nn.Linear(4, 4, bias=False) for name in ("encoder", "decoder", "other")}
    return nn.ModuleDict(layers)


def is_tied(model: Any, name: str = "decoder") -> bool:
    with torch.no_grad():
        return torch.equal(model[name].weight, model["encoder"].weight.T.fill_diagonal_(0))


as_child = pytest.mark.parametrize("as_child", [False, True], ids=["in a list", "as a child"])


@as_child
def test_a_reference_into_the_model_stays(as_child: bool) -> None:
    model = autoencoder()
    tie = TransposeOf(model["encoder"], as_child=as_child)
    register(model, {"decoder.weight": [tie, ZeroDiagonal()]})
    assert sum(parameter.numel() for parameter in model.parameters()) == 48
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model["decoder"].weight.detach()
    model["decoder"](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert is_tied(model)
    assert not torch.equal(model["decoder"].weight, before)
    assert is_tied(bake(model))


@as_child
def test_a_copy_refers_to_its_own_modules(as_child: bool) -> None:
    model = autoencoder()
    register(model, {"decoder.weight": [TransposeOf(model["encoder"], as_child=as_child), ZeroDiagonal()]})
    twin, before = copy.deepcopy(model), model["decoder"].weight.detach()
    with torch.no_grad():
        twin["encoder"].weight.mul_(2)
    assert is_tied(twin)
    torch.testing.assert_close(model["decoder"].weight, before)
    model.load_state_dict(twin.state_dict())
    assert is_tied(model)
    assert torch.equal(plain_state_dict(model)["decoder.weight"], twin["decoder"].weight)


@as_child
def test_copies_for_several_tensors_keep_the_reference(as_child: bool) -> None:
    model = autoencoder()
    tie = TransposeOf(model["encoder"], as_child=as_child)
    register(model, {"decoder.weight": [tie, ZeroDiagonal()], "other.weight": [tie, ZeroDiagonal()]})
    with torch.no_grad():
        model["encoder"].weight.mul_(2)
    assert is_tied(model)
    assert is_tied(model, "other")


class Scaled(nn.Module):
    """A weight times a parameter of another module; the inverse counts its calls, and remembers the largest entry."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale
        self.seen: list[float] = []
        self.register_buffer("largest", torch.zeros(()))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def right_inverse(self, weight: Tensor) -> Tensor:
        self.seen.append(1)
        self.largest = weight.abs().max()
        return weight / self.scale


def test_a_parametrization_may_share_a_parameter_of_the_model() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(3, 3)})
    model.scale = nn.Parameter(torch.tensor(2.0))
    register(model, {"layer.weight": Scaled(model.scale)})
    chain: Any = model["layer"].parametrizations
    assert chain.weight[0].scale is model.scale
    assert len(list(model.parameters())) == 3


@pytest.mark.parametrize("on_top", [False, True], ids=["first", "on top"])
def test_a_third_party_object_for_one_tensor_is_attached_itself(on_top: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    weight = model[0].weight.detach().clone()
    if on_top:
        register_parametrization(model[0], "weight", nn.Identity())
    step = Scaled(nn.Parameter(torch.tensor(2.0)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    register(model, {"0.weight": step}, optimizer=optimizer)
    assert model[0].parametrizations.weight[int(on_top)] is step
    assert any(step.scale is one for one in optimizer.param_groups[0]["params"])
    assert not step.training
    assert step.seen
    assert torch.equal(step.largest, weight.abs().max())
    torch.testing.assert_close(model[0].weight, weight)


def test_a_third_party_object_for_two_tensors_is_copied() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    step = Scaled(nn.Parameter(torch.tensor(2.0)))
    register(model, {"*.weight": step})
    first, second = (layer.parametrizations.weight[0] for layer in model)
    assert len({first, second, step}) == 3
    assert step.seen == []


def test_an_error_leaves_a_third_party_object_as_it_was() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    step = Scaled(nn.Parameter(torch.tensor(2.0)))
    model.eval()
    with pytest.raises(ValueError, match="needs a weight with 2 dimensions"):
        register(model, {"0.weight": step, "1.bias": ZeroDiagonal()})
    assert step.seen == []
    assert step.training
    assert not step.largest
    assert type(model[0]) is nn.Linear


class Generated(nn.Module):
    """A weight plus a matrix that another module of the model computes, as a hypernetwork does."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def added(self) -> Tensor:
        row: Tensor = self.generator(torch.ones(2, 3)).mean(0)
        return row.outer(torch.ones(3))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + self.added()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight - self.added()


def hypernetwork(generator: nn.Module | None = None) -> Any:
    layers = {name: nn.Linear(3, 3) for name in ("first", "second")}
    return nn.ModuleDict({"generator": generator or nn.Linear(3, 3), **layers})


def made(constrain: Callable[[nn.Module], nn.Module]) -> Any:
    return constrain(nn.Linear(3, 3))


def holds(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return any(one is parameter for group in optimizer.param_groups for one in group["params"])


def test_an_object_that_another_tensor_has_is_copied() -> None:
    model, other = hypernetwork(), hypernetwork()
    step = made(orthogonal).parametrizations.weight[0]
    register(model, {"first.weight": step})
    before = model["first"].weight.detach()
    register(model, {"second.weight": step})
    register(other, {"first.weight": step})
    assert torch.equal(model["first"].weight, before)
    used = made(orthogonal)
    before = used.weight.detach()
    register(other, {"second.weight": used.parametrizations.weight[0]})
    assert torch.equal(used.weight, before)


def test_a_generator_stays_in_the_optimizer_after_baking() -> None:
    model = register(hypernetwork(), {})
    register(model, {"first.weight": Generated(model["generator"]), "second.weight": Generated(model["generator"])})
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    (model["first"].weight.sum() + model["second"].weight.sum()).backward()
    optimizer.step()
    for pattern in ("first.weight", "second.weight"):
        bake(model, pattern, inplace=True, optimizer=optimizer)
        assert holds(optimizer, model["generator"].weight)
        assert optimizer.state[model["generator"].weight]
        assert holds(optimizer, model.get_parameter(pattern))
    assert len(optimizer.param_groups[0]["params"]) == 6


@pytest.mark.parametrize("on_top", [False, True], ids=["first", "on top"])
def test_a_generator_outside_the_optimizer_stays_outside(on_top: bool) -> None:
    model = hypernetwork()
    if on_top:
        register(model, {"first.weight": nn.Identity()})
    optimizer = torch.optim.SGD(model["first"].parameters(), 0.1)
    register(model, {"first.weight": Generated(model["generator"])}, optimizer=optimizer)
    assert not holds(optimizer, model["generator"].weight)
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_a_plain_checkpoint_does_not_load_through_a_reference() -> None:
    model, other = hypernetwork(), hypernetwork()
    register(other, {"first.weight": Generated(other["generator"])})
    before = other["first"].parametrizations.weight.original.detach().clone()
    with pytest.raises(RuntimeError, match=r"Generated refers to other modules.*Load the constrained checkpoint"):
        other.load_state_dict(model.state_dict())
    assert torch.equal(other["first"].parametrizations.weight.original, before)
    with pytest.raises(ValueError, match=r"Generated, which refers to other modules. Load the checkpoint into"):
        plain_state_dict(other, other.state_dict())
    model.load_state_dict(plain_state_dict(other))
    assert torch.equal(model["first"].weight, other["first"].weight)


def test_a_reference_to_a_constrained_parameter_is_refused() -> None:
    for rules in (
        lambda model: {"first.weight": Scaled(model["second"].weight), "second.weight": ZeroDiagonal()},
        lambda model: {"second.weight": ZeroDiagonal(), "first.weight": Scaled(model["second"].weight)},
        lambda model: {"second.weight": Scaled(model["second"].weight)},
    ):
        model = hypernetwork()
        with pytest.raises(ValueError, match=r"only its owner holds, for 'second.weight'.*'Scaled.scale' of Scaled"):
            register(model, rules(model))
    register(model, {"first.weight": Scaled(model["second"].weight)})
    with pytest.raises(ValueError, match=r"'first.parametrizations.weight.0.scale' of Scaled"):
        register(model, {"second.weight": ZeroDiagonal()})


def test_a_parametrization_that_contains_its_own_layer_is_refused() -> None:
    model = hypernetwork()
    with pytest.raises(ValueError, match=r"does not contain the module of 'first.weight'.*Keep the reference in"):
        register(model, {"first.weight": Generated(model["first"])})
    with pytest.raises(ValueError, match="does not contain the module"):
        register(model, {"first.weight": Generated(model)})


def test_an_error_leaves_the_buffers_of_a_referenced_module() -> None:
    generator = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model = hypernetwork(generator)
    with pytest.raises(ValueError, match="needs a weight with 2 dimensions"):
        register(model, {"first.weight": Generated(generator), "second.bias": ZeroDiagonal()})
    assert not generator[1].num_batches_tracked


def test_the_state_of_the_attached_object_is_that_of_pytorch() -> None:
    layer: Any = nn.Linear(3, 3)
    step = _Orthogonal(layer.weight, nn.utils.parametrizations._OrthMaps.matrix_exp)
    register(layer, {"weight": step})
    assert layer.parametrizations.weight[0] is step
    weight = layer.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(3))
