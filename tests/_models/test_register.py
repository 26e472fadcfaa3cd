"""`register`: names, chains, rollback on errors, refusals, gradients and optimizers."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import orthogonal, weight_norm
from torch.nn.utils.parametrize import (
    register_parametrization,
    remove_parametrizations,
    transfer_parametrizations_and_params,
)
from typing_extensions import override

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
    summary,
)
from tests.layers import NonNegative
from tools.injection import everything, failures, held_by


def model() -> Any:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()), nn.Linear(4, 3))


def test_patterns_match_full_names_and_cross_dots() -> None:
    made = register(model(), {"*.0.weight": Diagonal(), "[02].weight": ZeroDiagonal()})
    kinds = [type(made.get_submodule(name).parametrizations.weight[0]) for name in ("0", "1.0", "2")]
    assert kinds == [ZeroDiagonal, Diagonal, ZeroDiagonal]


def test_each_match_gets_a_copy_and_rules_are_shared() -> None:
    generator = torch.Generator().manual_seed(0)
    mine = MaskedSparse(masks.random(density=0.5, generator=generator))
    made = register(model(), {"0.weight": mine, "1.0.weight": mine})
    one, other = (made.get_submodule(name).parametrizations.weight[0] for name in ("0", "1.0"))
    assert not torch.equal(one.mask, other.mask)  # the generator went on drawing
    assert mine.shape is None
    register(model(), {"0.weight": mine})


def test_a_member_does_not_move_through_a_chain() -> None:
    layer: Any = nn.Linear(4, 4)
    member = torch.randn(4, 4).tril(-1) - torch.tensor([0.1, 1.0, 2.0, 30.0]).diag()
    layer.weight.data = member.clone()
    register(layer, {"weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]})
    torch.testing.assert_close(layer.weight, member, rtol=1e-5, atol=0)
    inputs = torch.randn(2, 4)
    torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


def test_mask_rules_in_a_chain_see_the_current_weight() -> None:
    layer: Any = nn.Linear(3, 3)
    layer.weight.data = torch.tensor([[-5.0, 4.0, 3.0], [2.5, -6.0, 2.0], [1.0, 0.5, -7.0]])
    register(layer, {"weight": [MaskedSparse(masks.magnitude(density=4 / 9)), NegExpDiagonal()]})
    assert layer.parametrizations.weight[0].mask.tolist() == [
        [True, True, False],
        [False, True, False],
        [False, False, True],
    ]


def test_registering_on_top_goes_by_the_plain_name_and_keeps_a_member() -> None:
    made = model()
    made[0].weight.data = -torch.eye(4) + torch.ones(4, 4).tril(-1)
    register(made, {"0.weight": MaskedSparse(masks.lower_triangular())})
    before = made[0].weight.detach()
    register(made, {"0.weight": NegExpDiagonal()})
    torch.testing.assert_close(made[0].weight, before)
    assert len(made[0].parametrizations.weight) == 2


def test_third_party_parametrizations_attach_too() -> None:
    class Doubled(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    made = register(model(), {"0.weight": Doubled(), "2.weight": [ZeroDiagonal(), Doubled()]})
    assert bool((made[2].weight.diagonal() == 0).all())
    assert explain(made[0]).why == "the constraint is third-party"


def test_linear_layers_are_fused_and_every_module_of_a_kind_shares_a_class() -> None:
    made: Any = nn.ModuleDict(
        {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "e": nn.Embedding(5, 4), "f": nn.Embedding(6, 4)}
    )
    register(made, {"*.weight": Diagonal()})
    assert explain(made["a"]).product == "elementwise"
    assert type(made["a"]) is type(made["b"])
    assert type(made["e"]) is type(made["f"])
    twin = copy.deepcopy(made)
    with parametrize.cached():
        made["a"].weight, twin["a"].parametrizations.weight.original.data.fill_(3)
        assert bool((twin["a"].weight.diagonal() == 3).all())
    for name in made:
        remove_parametrizations(twin[name], "weight")
        assert made[name].weight.shape == twin[name].weight.shape
    assert type(twin["e"]) is nn.Embedding


def test_a_bias_and_an_embedding_beside_each_other() -> None:
    class Squared(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

        def right_inverse(self, value: Tensor) -> Tensor:
            return value.clamp(min=0).sqrt()

    made = register(model(), {"0.bias": Squared(), "0.weight": Diagonal()})
    output = made[0](torch.ones(1, 4))
    torch.testing.assert_close(output, made[0].weight.diagonal()[None] + made[0].bias)
    assert bool((made[0].bias >= 0).all())


RULES: dict[str, Any] = {
    "0.weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
    "1.0.weight": Diagonal(),
    "2.weight": ZeroDiagonal(),
}


@pytest.mark.slow
def test_a_failure_at_any_step_changes_nothing() -> None:
    made = model()
    register(made, {"2.weight": MaskedSparse(masks.lower_triangular())})
    optimizer = torch.optim.Adam(made.parameters())
    made(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    before, held = everything(made), held_by(optimizer)
    for step in failures(lambda: register(made, RULES, optimizer=optimizer)):
        assert everything(made) == before, f"step {step}"
        assert held_by(optimizer) == held
    assert step > 300
    assert len(summary(made).rows) == 3


@pytest.mark.parametrize(
    ("rules", "refusal", "message"),
    [
        ({"0.wieght": Diagonal()}, ValueError, r"'0.wieght'. Got no match among 5 names. .* close: '0.weight'"),
        ({"nothing": Diagonal()}, ValueError, r"Got no match .* Names that are close: '0.weight', '0.bias'"),
        (
            {"*0.weight": Diagonal(), "0.w*": ZeroDiagonal()},
            ValueError,
            r"two for '0.weight': '\*0.weight' and '0.w\*'",
        ),
        ({"*": Diagonal()}, ValueError, r"2 dimensions for '\*'. Got '0.bias' of shape \(\d,\). Narrow"),
        (
            {"0.weight": Diagonal},
            TypeError,
            r"parametrization, or a sequence of them, for '0.weight'. Got the class Diagonal: write Diagonal\(\)",
        ),
        ({"0.weight": MaskedSparse}, TypeError, r"Got the class MaskedSparse: write MaskedSparse\(...\)"),
        ({"0.weight": int}, TypeError, r"Got the class int: write int\(\)"),
        ({"0.weight": []}, TypeError, r"for '0.weight'. Got none"),
        ({"0.weight": [Diagonal(), "x"]}, TypeError, r"for '0.weight'. Got str"),
        (
            {"0.weight": [NegExpDiagonal(), Diagonal()]},
            ValueError,
            r"'0.weight' on top of NegExpDiagonal\. Diagonal needs to be the first .* first in the list",
        ),
        ({"0.weight": nn.Sequential(Diagonal())}, TypeError, r"Got Sequential. Pass an object .* or a list of them"),
        ({1: Diagonal()}, TypeError, r"classes of layers, as keys. Got int"),
        ([("0.weight", Diagonal())], TypeError, "a mapping from names to parametrizations. Got Sequential and list"),
    ],
)
def test_wrong_rules_are_refused_and_nothing_has_changed(rules: Any, refusal: type[Exception], message: str) -> None:
    made = model()
    before = everything(made)
    with pytest.raises(refusal, match=message):
        register(made, rules)
    assert everything(made) == before


def test_a_failure_at_the_last_layer_of_many_undoes_the_first() -> None:
    made: Any = nn.Sequential(*(nn.Linear(3, 3) for _ in range(20)))
    made[19].weight.data[0, 0] = torch.nan
    before = [type(layer) for layer in made], list(made.state_dict())
    with pytest.raises(ValueError, match=r"cannot attach Diagonal to '19.weight'. .* finite weight"):
        register(made, {"*.weight": Diagonal()})
    assert ([type(layer) for layer in made], list(made.state_dict())) == before


def test_a_tied_weight_is_refused_with_every_place() -> None:
    made: Any = nn.ModuleDict({"embedding": nn.Embedding(4, 4), "head": nn.Linear(4, 4)})
    made["head"].weight = made["embedding"].weight
    with pytest.raises(ValueError, match=r"Got 'head.weight' without 'embedding.weight'"):
        register(made, {"head.weight": Diagonal()})


def test_a_weight_that_a_layer_elsewhere_shares_is_tied_too() -> None:
    layer: Any = register(nn.Linear(3, 3), {"weight": Diagonal()})
    other: Any = transfer_parametrizations_and_params(layer, nn.Linear(3, 3), "weight")
    before, weight = everything(layer), other.weight
    with pytest.raises(ValueError, match=r"Got 'weight' without '\(a layer elsewhere\)'"):
        register(layer, {"weight": NegExpDiagonal()})
    assert everything(layer) == before
    assert torch.equal(other.weight, weight)
    register(copy.deepcopy(layer), {"weight": NegExpDiagonal()})


def test_one_module_under_two_names_is_one_place() -> None:
    shared: Any = nn.Linear(4, 4)
    made: Any = nn.ModuleDict({"first": shared, "second": shared})
    register(made, {"*.weight": Diagonal()})
    assert len(shared.parametrizations.weight) == 1
    with pytest.raises(ValueError, match=r"two for 'first.weight'"):
        register(made, {"first.weight": ZeroDiagonal(), "second.weight": ZeroDiagonal()})


def test_a_buffer_a_lazy_module_and_a_container_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter for 'running_mean'. Got a buffer. Use PyTorch's"):
        register(nn.BatchNorm1d(3), {"running_mean": ZeroDiagonal()})
    with pytest.raises(ValueError, match=r"initialised, unsharded tensor at 'weight'. Got a UninitializedParameter"):
        register(nn.LazyLinear(3), {"weight": Diagonal()})
    container: Any = nn.Sequential(nn.Linear(3, 3))
    container.register_parameter("scale", nn.Parameter(torch.ones(3, 3)))
    with pytest.raises(ValueError, match=r"other than a container for 'scale'. Got Sequential"):
        register(container, {"scale": Diagonal()})


def test_a_class_that_something_else_changed_is_refused() -> None:
    made = register(model(), {"0.weight": Diagonal()})
    made[0].__class__ = type("Sharded", (type(made[0]),), {})
    with pytest.raises(ValueError, match=r"'0.weight' to have the class from register_parametrization. Got Sharded"):
        register(made, {"0.weight": NegExpDiagonal()})


def test_only_gradients_of_the_replaced_tensors_are_dropped() -> None:
    made = model()
    made(torch.ones(2, 4)).sum().backward()
    register(made, {"0.weight": Diagonal()})
    assert made[0].parametrizations.weight.original.grad is None
    assert made[2].weight.grad is not None
    made(torch.ones(2, 4)).sum().backward()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, fused=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, foreach=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_state_of_exactly_the_matched_parameters_is_dropped(
    make: Callable[[Any], torch.optim.Optimizer],
) -> None:
    made = model()
    optimizer = make(made.parameters())
    made(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    register(made, {"0.weight": Diagonal()}, optimizer=optimizer)
    left = optimizer.state.get(made[0].parametrizations.weight.original, {})
    assert all(bool((value == 0).all()) for value in left.values())  # fused SGD needs momentum for all or for none
    assert made[2].weight in optimizer.state
    optimizer.zero_grad()
    made(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = optimizer.state[made[0].parametrizations.weight.original]
    assert all(value.shape in ((4,), ()) for value in state.values() if isinstance(value, Tensor))


def test_a_non_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"register needs a torch.optim.Optimizer. Got dict"):
        register(model(), {"0.weight": Diagonal()}, optimizer={})  # type: ignore[arg-type]


def test_registering_on_top_of_third_party_parametrizations() -> None:
    made = model()
    weight_norm(made[0])
    orthogonal(made[1][0])
    register_parametrization(made[2], "weight", MaskedSparse(masks.lower_triangular()))
    register(made, {"1.0.weight": ZeroDiagonal(), "2.weight": NegExpDiagonal()})
    assert bool((made[1][0].weight.diagonal() == 0).all())
    assert bool((made[2].weight.diagonal() < 0).all())
    with pytest.raises(
        ValueError, match=r"cannot attach Diagonal to '0.weight' on top of _WeightNorm .* store another shape"
    ):
        register(made, {"0.weight": Diagonal()})


class Transposed(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.mT

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.mT.clone()


class Exponential(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.log()


class Negated(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return -x

    def right_inverse(self, weight: Tensor) -> Tensor:
        return -weight


@pytest.mark.parametrize(
    ("chain", "member"),
    [
        ([MaskedSparse(masks.lower_triangular()), Transposed()], torch.randn(3, 3).triu()),
        ([Exponential(), Negated()], -torch.rand(3, 3) - 0.1),
        ([Diagonal(), Negated(), NegExpDiagonal()], -torch.rand(3).diag()),
    ],
)
def test_a_member_of_a_chain_with_third_party_steps_does_not_move(chain: list[nn.Module], member: Tensor) -> None:
    layer = nn.Linear(3, 3)
    layer.weight.data = member.clone()
    register(layer, {"weight": chain})
    torch.testing.assert_close(layer.weight, member)


class LowRank(nn.Module):
    """Stores two tensors and owns a third parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    @override
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * x @ y

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight[:, :1].clone(), weight[:1].clone()


def test_several_stored_tensors_take_the_place_of_one_in_the_optimizer() -> None:
    made = model()
    optimizer = torch.optim.SGD(made.named_parameters(), lr=1.0)
    register(made, {"0.weight": LowRank()}, optimizer=optimizer)
    (group,) = optimizer.param_groups
    assert {id(tensor) for tensor in group["params"]} == {id(parameter) for parameter in made.parameters()}
    prefix = "0.parametrizations.weight"
    assert group["param_names"][:3] == [f"{prefix}.original0", f"{prefix}.original1", f"{prefix}.0.scale"]
    before = made[0].weight.detach().clone()
    made(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(made[0].weight, before)


def test_lbfgs_steps_on_after_registering() -> None:
    made = model()
    optimizer = torch.optim.LBFGS(made.parameters(), max_iter=3)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = made(torch.ones(2, 4)).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    register(made, {"0.weight": Diagonal()}, optimizer=optimizer)
    optimizer.step(loss)  # type: ignore[no-untyped-call]


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"register needs the optimizer .* such as '0.weight'. Got one without any of them"
    ):
        register(model(), {"0.weight": Diagonal()}, optimizer=torch.optim.SGD(model().parameters()))


def test_weights_that_share_their_memory_are_tied_too() -> None:
    made = model()
    made[0].weight.data = made[1][0].weight.data
    with pytest.raises(ValueError, match=r"Got '0.weight' without '1.0.weight'"):
        register(made, {"0.weight": ZeroDiagonal()})


class Wrapper(nn.Module):
    """Forwards attribute access to the wrapped module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @override
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def test_a_wrapper_that_passes_attributes_on_is_not_constrained_itself() -> None:
    wrapper: Any = Wrapper(register(nn.Linear(3, 3), {"weight": Diagonal()}))
    register(wrapper, {"module.weight": NegExpDiagonal()})
    assert len(list(wrapper.module.parametrizations.weight)) == 2
    compiled: Any = torch.compile(wrapper.module, backend="eager")
    assert [row.name for row in summary(compiled).rows] == ["_orig_mod.weight"]
    torch.testing.assert_close(bake(compiled)(torch.ones(1, 3)), wrapper.module(torch.ones(1, 3)))


class Stubborn(nn.Linear):
    """Refuses assignment to ``__class__``."""

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            raise AttributeError("no class change")
        super().__setattr__(name, value)


def test_a_module_that_refuses_another_class_is_constrained_all_the_same() -> None:
    made = register(nn.Sequential(Stubborn(3, 3)), {"0.weight": ZeroDiagonal()})
    assert bool((made.get_submodule("0").weight.diagonal() == 0).all())  # type: ignore[operator]
    assert type(bake(made)[0]) is Stubborn


def test_an_exact_name_wins_over_its_wildcards() -> None:
    made: Any = nn.ModuleDict({"a[0]": nn.Linear(2, 2), "b*": nn.Linear(2, 2), "bc": nn.Linear(2, 2)})
    register(made, {"a[0].weight": Diagonal(), "b*.weight": Diagonal()})
    assert [row.name for row in summary(made).rows] == ["a[0].weight", "b*.weight"]


def test_a_failure_of_another_kind_says_where_it_was() -> None:
    def rule(weight: Tensor) -> Tensor:  # noqa: ARG001
        raise KeyError("x")

    with pytest.raises(KeyError) as raised:
        register(model(), {"0.weight": MaskedSparse(rule)})
    assert raised.value.__notes__ == ["register could not attach MaskedSparse to '0.weight'; the model is as it was."]


def test_a_model_registered_in_inference_mode_trains_afterwards() -> None:
    made = model()
    with torch.inference_mode():
        register(made, {"0.weight": MaskedSparse(masks.banded(1, 1)), "2.weight": NegExpDiagonal()})
    made(torch.ones(2, 4)).sum().backward()
    assert made[0].parametrizations.weight.original.grad is not None


def test_an_old_graph_that_needs_the_old_stored_tensor_is_refused() -> None:
    layer = register(nn.Linear(4, 4), {"weight": Diagonal()})
    old = layer(torch.ones(2, 4, requires_grad=True)).sum()
    register(layer, {"weight": NegExpDiagonal()})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


class Refusing(nn.Module):
    """Refuses after everything before it has been attached."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no")


def test_after_a_refusal_a_loss_from_before_still_reaches_every_parameter() -> None:
    made = model()
    inputs = torch.ones(2, 4, requires_grad=True)
    old = made(inputs).sum()
    with pytest.raises(ValueError, match="cannot attach Refusing"):
        register(made, {"0.weight": Diagonal(), "2.weight": [ZeroDiagonal(), Refusing()]})
    old.backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert inputs.grad is not None


def test_rules_and_inverses_write_into_a_copy_of_the_weight() -> None:
    def halved(weight: Tensor) -> Tensor:
        return weight.div_(2) != 0

    class Negating(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return -x

        def right_inverse(self, weight: Tensor) -> Tensor:
            return weight.neg_()

    made = model()
    before = everything(made)
    for chain in ([MaskedSparse(halved)], [Negating()], [ZeroDiagonal(), Negating()]):
        with pytest.raises(ValueError, match="cannot attach Refusing"):
            register(made, {"0.weight": [*chain, Refusing()]})
        assert everything(made) == before


@pytest.mark.parametrize("within", [True, False])
def test_a_model_made_in_inference_mode_can_be_registered(within: bool) -> None:
    with torch.inference_mode():
        made = model()
        expected = [made[0].weight.diagonal().clone(), made[2].weight.clone()]
        if within:
            register(made, {"0.weight": Diagonal(), "2.weight": NegExpDiagonal()})
    if not within:
        register(made, {"0.weight": Diagonal(), "2.weight": NegExpDiagonal()})
    torch.testing.assert_close(made[0].weight.diagonal(), expected[0])
    assert not any(tensor.is_inference() for tensor in made.parameters())
    made(torch.ones(1, 4)).square().sum().backward()
    with torch.inference_mode():
        made(torch.ones(1, 4))


class FurtherNegExpDiagonal(NegExpDiagonal):
    """A subclass of `NegExpDiagonal`: one tensor may have both if they are compatible."""


class FurtherZeroDiagonal(ZeroDiagonal):
    """A subclass of `ZeroDiagonal`."""


@pytest.mark.parametrize("separately", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NegExpDiagonal(), NegExpDiagonal(product="dense")),
        (ZeroDiagonal(on_infeasible="project"), ZeroDiagonal()),
        (Diagonal(), Diagonal()),
        (MaskedSparse(masks.banded(1, 1)), MaskedSparse(masks.lower_triangular())),
        (NonNegative(), NonNegative(on_infeasible="project")),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_class_is_registered_on_a_tensor_once(first: nn.Module, second: nn.Module, separately: bool) -> None:
    made = model()
    if separately:
        register(made, {"0.weight": [first, nn.Identity()]})
    before = everything(made)
    name = type(second).__name__
    advice = "bake first. To change only its mask, call remask" if name == "MaskedSparse" else r"bake first\.$"
    with pytest.raises(ValueError, match=rf"different classes for '0.weight'. Got a second {name}. Pass it .*{advice}"):
        register(made, {"*.bias": NonNegative(), "0.weight": second if separately else [first, nn.Identity(), second]})
    assert everything(made) == before


def test_third_party_parametrizations_and_subclasses_can_be_stacked() -> None:
    made = register(model(), {"0.weight": [nn.Identity(), ZeroDiagonal(), nn.Identity(), FurtherZeroDiagonal()]})
    register(made, {"0.weight": nn.Identity(), "2.weight": ZeroDiagonal()})
    assert len(made[0].parametrizations.weight) == 5


@pytest.mark.parametrize("diagonal", [[-2.0, -0.5, -3.0], [-0.2, -0.5, -0.3], [0.2, -0.5, 3.0]])
@pytest.mark.parametrize("fresh", [True, False])
def test_two_constraints_that_would_move_a_member_of_both_are_refused(fresh: bool, diagonal: list[float]) -> None:
    made = nn.Linear(3, 3)
    made.weight.data = torch.tensor(diagonal).diag()
    rule: Any = [NegExpDiagonal(), FurtherNegExpDiagonal()] if fresh else FurtherNegExpDiagonal()
    if not fresh:
        register(made, {"weight": NegExpDiagonal()})
    before = everything(made)
    with pytest.raises(
        ValueError,
        match=r"need to hold together. Got NegExpDiagonal, then FurtherNegExpDiagonal: the weight is .* away",
    ):
        register(made, {"weight": rule})
    assert everything(made) == before


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([NegExpDiagonal(), ZeroDiagonal()], "outside the set of NegExpDiagonal, which needs every entry on the main"),
        ([ZeroDiagonal(), NegExpDiagonal()], "outside the set of ZeroDiagonal"),
        ([nn.Identity(), ZeroDiagonal(), NegExpDiagonal()], "outside the set of ZeroDiagonal"),
        ([MaskedSparse(masks.lower_triangular(-1)), NegExpDiagonal()], "outside the set of MaskedSparse"),
    ],
)
def test_two_constraints_that_undo_each_other_are_refused(chain: list[nn.Module], message: str) -> None:
    made = model()
    before = everything(made)
    with pytest.raises(ValueError, match=message):
        register(made, {"0.weight": chain})
    assert everything(made) == before


class Kept(nn.Module):
    """Returns its input, like a user's logging or training noise."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([Kept(), NegExpDiagonal(), FurtherNegExpDiagonal()], "the weight is .* away from a common member of their"),
        ([Exponential(), ZeroDiagonal(), NegExpDiagonal()], "outside the set of ZeroDiagonal"),
    ],
)
def test_two_constraints_that_clash_after_a_third_party_step_are_refused(chain: list[nn.Module], message: str) -> None:
    made = model()
    made[0].weight.data = torch.tensor([-0.1, -2.0, -5.0, -1.0]).diag()
    before = everything(made)
    with pytest.raises(ValueError, match=rf"of '0.weight' need to hold together. .*{message}"):
        register(made, {"0.weight": chain})
    assert everything(made) == before


def test_a_constraint_before_a_third_party_step_holds_for_the_input_of_the_step() -> None:
    made = register(nn.Linear(3, 3), {"weight": [ZeroDiagonal(), Kept(), NegExpDiagonal()]})
    assert summary(made).rows[0].holds
    assert bool((made.weight.diagonal() < 0).all())


class Estimating(Kept):
    """Divides by the norm of the last weight, so it inverts only the first, like an estimated norm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("size", torch.ones(()))
        self.size: Tensor

    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.size.copy_(weight.detach().norm())
        return weight * 2


class LowerBounded(Kept):
    """Refuses values below a bound, including the weight of -2 that would reveal a clash."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        if bool((x < -1.5).any()):
            raise ValueError("out of bounds")
        return x


class Overflowing(Kept):
    """Returns minus infinity below a bound."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < -1.5, -torch.inf, x)


@pytest.mark.parametrize(
    "chain",
    [
        [ZeroDiagonal(), Kept(), FurtherZeroDiagonal()],
        [ZeroDiagonal(), Transposed(), FurtherZeroDiagonal(), Negated()],
        [Diagonal(), Kept(), NegExpDiagonal(), Negated()],
        [Diagonal(), Transposed(), Kept(), ZeroDiagonal()],
        [MaskedSparse(masks.lower_triangular()), Negated(), NegExpDiagonal()],
        [MaskedSparse(masks.lower_triangular(1)), Transposed(), ZeroDiagonal()],
        [ZeroDiagonal(), Estimating(), FurtherZeroDiagonal()],
        [MaskedSparse(masks.lower_triangular()), NegExpDiagonal(), LowerBounded()],
        [MaskedSparse(masks.lower_triangular()), Overflowing(), NegExpDiagonal()],
        [Estimating(), NegExpDiagonal(), Estimating(), FurtherNegExpDiagonal()],
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_compatible_constraints_around_third_party_steps_are_attached(
    chain: list[nn.Module], dtype: torch.dtype
) -> None:
    made: Any = register(nn.Linear(5, 5, dtype=dtype), {"weight": chain})
    assert len(made.parametrizations.weight) == len(chain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize(
    "chain",
    [
        [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
        [Diagonal(), NegExpDiagonal()],
        [MaskedSparse(masks.lower_triangular()), ZeroDiagonal()],
        [ZeroDiagonal(), FurtherZeroDiagonal()],
    ],
)
def test_two_compatible_constraints_start_from_any_weight(
    chain: list[nn.Module], scale: float, dtype: torch.dtype
) -> None:
    made = nn.Linear(6, 4, dtype=dtype)
    made.weight.data.mul_(scale)
    register(made, {"weight": chain})
    assert summary(made).rows[0].holds


@pytest.mark.parametrize("first", [Diagonal, lambda: MaskedSparse(masks.banded(0, 0))], ids=["Diagonal", "mask"])
@pytest.mark.parametrize("start", [nn.init.normal_, nn.init.zeros_])
def test_constraints_that_leave_only_zero_are_refused(first: Any, start: Any) -> None:
    made = nn.Linear(4, 4)
    start(made.weight)
    with pytest.raises(ValueError, match=r"hold together.*weight is 0 in every entry"):
        register(made, {"weight": [first(), ZeroDiagonal()]})
    assert type(made) is nn.Linear


@pytest.mark.filterwarnings("ignore:.*keeps none of")
def test_a_mask_that_keeps_nothing_may_be_followed() -> None:
    made = register(nn.Linear(3, 3), {"weight": [MaskedSparse(torch.zeros(3, 3).bool()), ZeroDiagonal()]})
    assert not made.weight.any()


def test_on_top_of_a_third_party_step_a_member_may_move() -> None:
    made = orthogonal(nn.Linear(3, 3))
    made.weight = -torch.eye(3)
    register(made, {"weight": NegExpDiagonal()})
    assert summary(made).rows[0].holds


def test_two_constraints_without_values_are_attached() -> None:
    with torch.device("meta"):
        made = register(nn.Linear(3, 3), {"weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]})
    assert len(made.get_submodule("parametrizations.weight")) == 2  # type: ignore[arg-type]


def test_after_a_refusal_a_module_that_pytorch_registered_before_still_runs() -> None:
    layer = register_parametrization(nn.Linear(4, 4), "weight", nn.Identity())
    rnn = register_parametrization(nn.RNN(4, 4), "weight_hh_l0", nn.Identity())
    shared = register(nn.Linear(4, 4), {"weight": Diagonal()})
    for module, name in ((layer, "bias"), (rnn, "weight_ih_l0"), (shared, "bias")):
        expected, properties = getattr(module, name).detach().clone(), set(vars(type(module)))
        with pytest.raises(ValueError, match="cannot attach Refusing"):
            register(module, {name: [nn.Identity(), Refusing()]})
        assert torch.equal(getattr(module, name), expected)
        assert set(vars(type(module))) == properties
        module(torch.ones(1, 4))


def test_a_rule_for_several_weights_is_shown_copies() -> None:
    made = model()
    before = [parameter.detach().clone() for parameter in made.parameters()]

    def spread(weights: Sequence[masks.Kept]) -> list[masks.MaskRule]:
        for kept in weights:
            kept.values.fill_(7)
            kept.places.fill_(7)
        return [masks.magnitude(density=1.0) for _ in weights]

    register(made, {"*.weight": MaskedSparse(masks.MaskRule("mine", lambda weight: weight > 0, spread=spread))})
    torch.testing.assert_close([*bake(made).parameters()], [nn.Parameter(x) for x in before], rtol=0, atol=0)


@pytest.mark.parametrize("dampening", [0.0, 0.5])
@pytest.mark.parametrize("scaled", [True, False])
def test_fused_sgd_takes_the_first_step_of_a_fresh_optimizer(dampening: float, scaled: bool) -> None:
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": dampening, "fused": True}
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), **options)
    made(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    held = copy.deepcopy(optimizer.param_groups)
    with pytest.raises(ValueError, match="cannot attach Refusing"):
        register(made, {"0.weight": Diagonal(), "2.weight": Refusing()}, optimizer=optimizer)
    assert [group.keys() for group in optimizer.param_groups] == [group.keys() for group in held]
    assert optimizer.param_groups[0]["fused"]
    register(made, {"0.weight": Diagonal()}, optimizer=optimizer)
    twin = copy.deepcopy(made)
    for one, stepping in ((made, optimizer), (twin, torch.optim.SGD(twin.parameters(), **options))):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)
        stepping.zero_grad()
        scaler.scale(one(torch.ones(2, 4)).sum()).backward()
        scaler.step(stepping)
    torch.testing.assert_close(made[0].weight, twin[0].weight)
    assert not torch.equal(made[2].weight, twin[2].weight)  # its momentum is kept


def test_repeated_registration_names_only_earlier_parametrizations() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = [0]

        @override
        def forward(self, x: Tensor) -> Tensor:
            return x

        def right_inverse(self, weight: Tensor) -> Tensor:
            self.left.pop()
            return weight

    with pytest.raises(IndexError) as raised:
        register(nn.Linear(3, 3), {"weight": [Once(), ZeroDiagonal()]})
    (note,) = raised.value.__notes__
    assert note.startswith("register could not attach ZeroDiagonal to 'weight' on top of Once;")


@pytest.mark.parametrize("make", [ZeroDiagonal, NegExpDiagonal, Diagonal])
def test_a_vector_is_refused_on_top_of_others_too(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"to 'bias' on top of Identity\. .* needs a weight with 2 dimensions. Got 1"):
        register(nn.Linear(3, 3), {"bias": [nn.Identity(), make()]})


@pytest.mark.parametrize("pattern", ["0.weight", "0.*ght", "0.w*", "*.weight*", "*.weight"])
def test_a_pruned_weight_is_refused_with_advice(pattern: str) -> None:
    made = model()
    prune.l1_unstructured(made[0], "weight", amount=0.5)  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match=r"first: prune.remove\(model.get_submodule\('0'\), 'weight'\)"):
        register(made, {pattern: ZeroDiagonal()})
    register(made, {"*.weight_orig": Diagonal(), "2.weight": ZeroDiagonal()})
    assert made[0](torch.ones(1, 4)).shape == (1, 4)
    bake(made, inplace=True)
    prune.remove(made.get_submodule("0"), "weight")  # type: ignore[no-untyped-call]
    register(made, {pattern: ZeroDiagonal()})


class Unitary(nn.Module):
    """Refuses weights outside its set, like the manifolds of geotorch."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        unitary: Tensor = torch.linalg.qr(x).Q
        return unitary

    def right_inverse(self, weight: Tensor) -> Tensor:
        if not torch.allclose(weight @ weight.mT, torch.eye(len(weight)), atol=1e-4):
            raise ValueError("not unitary")
        return weight


def test_on_top_of_a_third_party_step_that_refuses_other_weights() -> None:
    member = torch.linalg.qr(torch.randn(4, 4)).Q
    for below in ("registered", "in the sequence"):
        made: Any = nn.Linear(4, 4)
        made.weight.data = member.clone()
        chain = [Unitary(), ZeroDiagonal()]
        if below == "registered":
            register_parametrization(made, "weight", chain.pop(0))
        expected = Unitary()(made.weight).fill_diagonal_(0).detach()
        register(made, {"weight": chain})
        torch.testing.assert_close(made.weight.detach(), expected)
        made(torch.ones(1, 4)).sum().backward()


def test_a_third_party_step_that_refuses_the_weight_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"attach Unitary to 'weight' on top of ZeroDiagonal\. .* this weight in right_inverse: not un"
    ):
        register(nn.Linear(4, 4), {"weight": [ZeroDiagonal(), Unitary()]})


def test_in_inference_mode_the_optimizer_state_is_dropped_and_training_continues() -> None:
    made = nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.Adam(made.parameters())
    made(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    with torch.inference_mode():
        register(made, {"0.weight": Diagonal()}, optimizer=optimizer)
    stored = made.get_parameter("0.parametrizations.weight.original")
    assert stored not in optimizer.state
    before = stored.detach().clone()
    made(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert not bool((stored == before).any())


class Momentum(torch.optim.Optimizer):
    """A third-party optimizer without a ``fused`` option in its groups."""

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.1})
        for group in self.param_groups:
            self.state |= {tensor: {"momentum_buffer": torch.ones_like(tensor)} for tensor in group["params"]}


def test_the_momentum_of_a_third_party_optimizer_is_dropped_not_created() -> None:
    made = nn.Linear(4, 4)
    optimizer = Momentum(made.parameters())
    register(made, {"weight": Diagonal()}, optimizer=optimizer)
    assert list(optimizer.state) == [made.bias]


def test_a_model_may_have_a_scripted_part_that_is_not_constrained() -> None:
    made = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 4))))
    register(made, {"0.weight": Diagonal()})
    assert [row.name for row in summary(made).rows] == ["0.weight"]
    inputs = torch.ones(2, 4)
    torch.testing.assert_close(bake(made)(inputs), made(inputs))
    assert list(plain_state_dict(made)) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


def test_a_scripted_module_cannot_be_constrained() -> None:
    made = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 4))))
    with pytest.raises(ValueError, match=r"a Python module for '1\.0\.weight'. Got a scripted or traced one"):
        register(made, {"*.weight": Diagonal()})


MEMORY = """
import torch
from torch import nn
from parametrizations import Diagonal, NegExpDiagonal, ZeroDiagonal, register
def peak():  # not ru_maxrss, which a new process takes over from the one that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
register(nn.Linear(64, 64), {"weight": KIND()})  # what the first call imports and allocates
layer = nn.Linear(4096, 4096, bias=False)
before, size = peak(), layer.weight.numel() * 4
register(layer, {"weight": KIND()})
print(1 + (peak() - before) / size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("kind", "at_most"), [("Diagonal", 1.2), ("ZeroDiagonal", 2.2), ("NegExpDiagonal", 2.2)])
def test_registering_needs_no_memory_beyond_the_old_and_the_new_tensor(kind: str, at_most: float) -> None:
    script = MEMORY.replace("KIND", kind)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert 0.9 <= float(done.stdout) < at_most


@pytest.mark.parametrize("make", [Diagonal, ZeroDiagonal, NegExpDiagonal, lambda: MaskedSparse(masks.banded(1, 1))])
def test_a_state_dict_of_the_plain_model_keeps_the_old_weight(make: Callable[[], nn.Module]) -> None:
    made = nn.Linear(4, 4)
    old, expected = made.state_dict()["weight"], made.weight.detach().clone()
    register(made, {"weight": make()})
    made.get_parameter("parametrizations.weight.original").data.fill_(7)
    assert torch.equal(old, expected)
