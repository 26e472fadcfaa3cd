"""Errors that name the remedy: weights too large to be dense, and typical mistakes."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations as of_torch
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    Parametrization,
    Signed,
    ZeroDiagonal,
    bake,
    dense_gradients,
    explain,
    masks,
    plain_state_dict,
    register,
    remask,
    signs,
    summary,
    tune,
)
from parametrizations.testing import check_parametrization
from tests.layers import every, fused
from tests.thresholds import with_memory

MILLION = 2**20  # a dense weight of this width takes 4.4 TB


def million(*steps: nn.Module) -> Any:
    with torch.device("meta"):
        layer = nn.Linear(MILLION, MILLION, bias=False)
    return register(layer, {"weight": steps}).to_empty(device="cpu")


class Halved(nn.Module):
    """A third-party step, which needs the dense weight."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * 2


TOO_LARGE: dict[str, tuple[Callable[[Any], object], str]] = {
    "its weight": (lambda layer: layer.weight, "Diagonal needs 4.4 TB for the dense weight.*Call the layer"),
    "bake": (bake, "bake needs 4.4 TB.*Keep the layer constrained"),
    "plain_state_dict": (plain_state_dict, "plain_state_dict needs 4.4 TB.*Keep the layer constrained"),
    "register": (
        lambda layer: register(layer, {"weight": NegExpDiagonal()}),
        "register needs 4.4 TB.*Attach all constraints in one call, on the meta device",
    ),
    "reset_parameters": (
        lambda _: million(Diagonal(), Halved()).reset_parameters(),
        "Linear.reset_parameters needs 4.4 TB.*Initialise the stored tensor itself",
    ),
}


@pytest.mark.parametrize(("call", "message"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_weight_that_does_not_fit_is_refused_before_it_is_allocated(
    call: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call(million(Diagonal()))


def test_the_dense_product_of_a_weight_that_does_not_fit_is_refused() -> None:
    layer = million(Diagonal(product="dense"))
    with pytest.raises(ValueError, match=r"Diagonal needs 4.4 TB"):
        layer(torch.ones(1, MILLION))
    layer.parametrizations.weight[0].product = "auto"
    assert layer(torch.ones(1, MILLION)).shape == (1, MILLION)


def test_a_mask_on_a_weight_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = register(nn.Linear(64, 64), {"weight": MaskedSparse(masks.block_diagonal(8), product="strips")})
    with_memory(monkeypatch, 2**10)
    layer(torch.ones(1, 64))
    with pytest.raises(ValueError, match=r"MaskedSparse needs 16.4 kB for the dense weight.*machine with 1.02 kB"):
        _ = layer.weight


def test_tune_leaves_out_a_dense_product_that_does_not_fit() -> None:
    (row,) = tune(million(Diagonal()), torch.ones(1, MILLION)).rows
    assert row.chosen == "elementwise"
    assert not row.milliseconds


pruning: Any = prune  # without types
PRUNE: dict[str, Callable[[nn.Module], object]] = {
    "l1": lambda layer: pruning.l1_unstructured(layer, "weight", 0.5),
    "structured": lambda layer: pruning.random_structured(layer, "weight", 0.5, dim=0),
    "a given mask": lambda layer: pruning.custom_from_mask(layer, "weight", torch.ones(4, 6)),
    "global": lambda layer: pruning.global_unstructured([(layer, "weight")], prune.L1Unstructured, amount=0.3),
}


@pytest.mark.parametrize("call", PRUNE.values(), ids=PRUNE)
@every
def test_pruning_a_computed_weight_names_the_alternatives(
    make: Callable[[], Parametrization], call: Callable[[nn.Module], object]
) -> None:
    layer = fused(make)
    before = layer.weight.detach()
    with pytest.raises(TypeError, match=r"prune needs a parameter. Got 'weight', which is computed.*bake it first"):
        call(layer)
    assert torch.equal(layer.weight, before)
    assert not hasattr(layer, "weight_mask")


@pytest.mark.parametrize("module", [nn.Sequential(nn.Linear(2, 2)), nn.ReLU(), nn.LSTM(2, 2)])
def test_explain_says_that_there_is_no_weight(module: nn.Module) -> None:
    product, why = explain(module)
    assert product == "dense"
    assert why == f"{type(module).__name__} has no weight: pass one of its layers, or use summary"


@every
@pytest.mark.parametrize("later", [of_torch.weight_norm, of_torch.orthogonal])
def test_a_parametrization_that_must_come_first_is_named(make: Callable[[], Parametrization], later: Any) -> None:
    layer = fused(make)
    expected = layer.weight.detach()
    later(layer)
    reads: list[Callable[[], object]] = [lambda: layer.weight, lambda: layer(torch.ones(1, 6))]
    for read in reads:
        with pytest.raises(RuntimeError, match="need to come first: delete the last one, del layer"):
            read()
    del layer.parametrizations.weight[-1]
    assert torch.equal(layer.weight, expected)


RANDOM = masks.random(density=0.5)


class Own(Parametrization):
    """Every 4 x 4 matrix."""

    needs = "anything"

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight


def own(**members: Any) -> Callable[[], nn.Linear]:
    """A call that registers a constraint with the given members, and assigns a weight."""

    def call() -> nn.Linear:
        layer = register(nn.Linear(4, 4), {"weight": type("Mine", (Own,), members)()})
        layer.weight = torch.ones(4, 4)
        return layer

    return call


def rectangular(**members: Any) -> Callable[[], nn.Module]:
    return lambda: register(nn.Linear(3, 4), {"weight": type("Mine", (Own,), members)()})


def positive_part(_: Parametrization, weight: Tensor) -> Tensor:
    return weight.clamp(min=1e-3)


def logarithm(_: Parametrization, member: Tensor) -> Tensor:
    return member.log()


def below_zero(_: Parametrization, weight: Tensor) -> Tensor:
    return (-weight).clamp(min=0)


def cut_off(_: Parametrization, x: Tensor) -> Tensor:
    return x.detach().clone()


class Positive(Own):
    """`exp` without its inverse."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class PlainList(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.rest = kind([("a", nn.Linear(4, 4)), ("b", nn.Linear(4, 4))])


WARNED: dict[str, tuple[Callable[[], object], str]] = {
    "a map without its inverse": (
        lambda: register(nn.Linear(4, 4), {"weight": Positive()}),
        r"Positive needs forward\(invert\(member\)\) to be the member. Got .* moves 'weight'. Define invert\(member\)",
    ),
    "a projection that leaves the set": (
        lambda: register(nn.Linear(4, 4), {"weight": type("Mine", (Positive,), {"excess": below_zero})()}),
        r"Mine needs project\(weight\) in its set. Got .* Fix project or the sign of excess",
    ),
    "a map that is cut off": (
        lambda: register(nn.Linear(4, 4), {"weight": type("Mine", (Own,), {"forward": cut_off})()}),
        r"Mine needs forward\(x\) to depend on x for 'weight'. Got no gradient.* Avoid detach",
    ),
    "a map beyond the set": (
        lambda: register(
            nn.Linear(4, 4), {"weight": type("Mine", (Own,), {"excess": below_zero, "project": positive_part})()}
        ),
        r"Mine needs forward\(x\) in its set for every x. Got .* Use project\(x\) in forward",
    ),
    "layers in a plain list": (
        lambda: register(PlainList(lambda pairs: [layer for _, layer in pairs]), {nn.Linear: ZeroDiagonal()}),
        r"does not reach the 2 layers in 'rest', a plain list.* nn\.ModuleList",
    ),
    "layers in a plain dictionary": (
        lambda: register(PlainList(dict), {nn.Linear: ZeroDiagonal()}),
        r"does not reach the 2 layers in 'rest', a plain dict.* nn\.ModuleDict",
    ),
    "a mask of nothing": (
        lambda: register(nn.Linear(4, 4), {"weight": MaskedSparse(torch.zeros(4, 4) > 0)}),
        r"keeps none of 16 entries: the weight stays zero. True keeps an entry",
    ),
    "a rule by position on groups": (
        lambda: register(nn.Conv2d(4, 4, 3, groups=2), {"weight": MaskedSparse(masks.lower_triangular())}),
        r"cuts across the 2 weights stacked in 'weight'. Pass masks.per_block\(rule, 2\)",
    ),
    "two global thresholds": (
        lambda: register(
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
            {f"{index}.weight": MaskedSparse(masks.global_magnitude(density=0.5)) for index in range(2)},
        ),
        r"register got equal rules \(global_magnitude\(0.5\)\) in 2 objects. Share one for all weights",
    ),
    "a rule by position on gates": (
        lambda: register(nn.GRU(4, 4), {"weight_hh_l0": MaskedSparse(masks.lower_triangular())}),
        r"cuts across the 3 weights stacked in 'weight_hh_l0'. Pass masks.per_block\(rule, 3\)",
    ),
    "blocks of another number of gates": (
        lambda: register(nn.GRU(4, 4), {"weight_hh_l0": MaskedSparse(masks.per_block(RANDOM, 4))}),
        r"per_block\(random\(0.5\), 4\) cuts across the 3 weights",
    ),
}


@pytest.mark.parametrize(("call", "message"), WARNED.values(), ids=WARNED)
def test_a_likely_mistake_warns(call: Callable[[], object], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        call()


MEANT: dict[str, Callable[[], object]] = {
    "one hidden layer": lambda: register(PlainList(lambda pairs: [pairs[0][1]]), {nn.Linear: ZeroDiagonal()}),
    "a shared threshold": lambda: register(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), {"*.weight": MaskedSparse(masks.global_magnitude(density=0.5))}
    ),
    "one matrix of gates": lambda: register(
        nn.GRU(4, 4), {"weight_hh_l0": MaskedSparse(masks.per_block(masks.lower_triangular(), 1))}
    ),
    "a mask for each gate": lambda: register(
        nn.GRU(4, 4), {"weight_hh_l0": MaskedSparse(masks.per_block(masks.lower_triangular(), 3))}
    ),
    "a map with its inverse": lambda: register(
        nn.Linear(4, 4), {"weight": type("Log", (Positive,), {"project": positive_part, "invert": logarithm})()}
    ),
}


@pytest.mark.parametrize("call", MEANT.values(), ids=MEANT)
def test_what_is_meant_does_not_warn(call: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


def model_with(*steps: nn.Module) -> Any:
    return register(nn.Sequential(nn.Linear(4, 4)), {"0.weight": steps})


def masked() -> Any:
    return model_with(MaskedSparse(masks.random(density=0.5)))


def assign(weight: object) -> None:
    layer: Any = model_with(ZeroDiagonal())[0]
    layer.weight = weight


def other_gradient() -> object:
    with dense_gradients(model := masked()) as gradients:
        model(torch.ones(1, 4)).sum().backward()
    return gradients["0.bias"]


def no_super(self: Parametrization) -> None:
    self.__dict__["option"] = 1


register_: Any = register  # without types
remask_: Any = remask
sparse_: Any = MaskedSparse
zero_: Any = ZeroDiagonal
bake_: Any = bake
rigl_: Any = masks.rigl
ofscipy: Any = importlib.import_module("scipy.sparse")
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "a rule without MaskedSparse": (lambda: register_(nn.Linear(4, 4), {"weight": RANDOM}), r"Wrap .* MaskedSparse\("),
    "a mask without MaskedSparse": (
        lambda: register_(nn.Linear(4, 4), {"weight": torch.eye(4) > 0}),
        r"Got Tensor. Wrap a mask or its rule, as in MaskedSparse\(",
    ),
    "a name instead of rules": (
        lambda: register_(nn.Linear(4, 4), "weight", ZeroDiagonal()),
        r"Got register\(Linear, 'weight', ZeroDiagonal\). Write register\(model, rules, optimizer=None\)",
    ),
    "remask without optimizer": (
        lambda: remask_(masked(), {"0.weight": RANDOM}),
        r"Write remask\(model, rules, optimizer=...\)",
    ),
    "remask of a plain layer": (
        lambda: remask(nn.Linear(4, 4), {"weight": RANDOM}, optimizer=None),
        r"which has no mask yet. Register a mask: register\(model, {'weight': MaskedSparse",
    ),
    "remask of another constraint": (
        lambda: remask(model_with(ZeroDiagonal()), {"0.weight": RANDOM}, optimizer=None),
        "constrained, but without a mask. Bake it, and register a mask",
    ),
    "a density without a rule": (lambda: sparse_(density=0.1), r"MaskedSparse\(masks.magnitude\(density=0.1\)\)"),
    "a size": (lambda: zero_(64), "Pass no shape: it is that of the weight"),
    "a module": (
        lambda: register(nn.Sequential(nn.Linear(4, 4)), {"0": Diagonal()}),
        "Name its parameters: '0.weight'",
    ),
    "a regular expression": (
        lambda: register(nn.Sequential(nn.Linear(4, 4)), {r".*\.weight$": Diagonal()}),
        "Wildcards are those of a shell, such as",
    ),
    "no parameters": (lambda: register(nn.ReLU(), {"weight": Diagonal()}), "Register before quantizing"),
    "the old weight_norm": (
        lambda: register(nn.utils.weight_norm(nn.Linear(4, 4)), {"weight": Diagonal()}),
        r"computed by torch.nn.utils.weight_norm. Remove that first: torch.nn.utils.remove_weight_norm",
    ),
    "the old spectral_norm": (
        lambda: register(nn.utils.spectral_norm(nn.Linear(4, 4)), {"weight": Diagonal()}),
        r"Remove that first: torch.nn.utils.remove_spectral_norm",
    ),
    "a mask without the diagonal": (
        lambda: register(nn.Linear(4, 4), {"weight": [MaskedSparse(torch.eye(4) < 1), NegExpDiagonal()]}),
        "A mask has to keep the entries that other constraints change, such as the diagonal",
    ),
    "a call": (lambda: Diagonal()(torch.ones(4, 4)), "Attach the parametrization with register, first in the list"),
    "another dtype": (
        lambda: assign(torch.zeros(4, 4).double()),
        r"Got torch.float64.*Assign value.to\(layer.weight\)",
    ),
    "a list": (lambda: assign([[0.0]]), r"Got list. Pass torch.as_tensor\(weight\)"),
    "a new mask": (lambda: setattr(masked()[0].parametrizations.weight[0], "mask", 0), r"Write remask\("),
    "a list as mask": (lambda: sparse_([[True]]), r"Pass torch.tensor\(mask\)"),
    "a set of pairs": (lambda: sparse_({(0, 1)}), r"masks.from_edges\(pairs\)"),
    "a mask with dense dimensions": (lambda: MaskedSparse(torch.eye(4).to_sparse(1)), r"Pass mask.to_dense\(\) != 0"),
    "a schedule": (
        lambda: model_with(sparse_(masks.gradual(1.0, 0.1, steps=10))),
        r"A schedule is not a mask rule. Give its value to one, as in masks.magnitude\(density=schedule\(step\)\)",
    ),
    "a rule without an argument": (lambda: sparse_(lambda: 1), "needs a rule with one argument. Got <lambda>"),
    "tune of a list": (lambda: tune(masked(), [torch.ones(1, 4)]), r"Got list.*Pass tune\(model, batch\)"),
    "the gradient of a weight": (
        lambda: remask_(masked(), {"0.weight": rigl_(0.3, {"0.weight": None})}, optimizer=None),
        "Got None. Take it from dense_gradients",
    ),
    "a checkpoint of another constraint": (
        lambda: model_with(NegExpDiagonal()).load_state_dict(model_with(ZeroDiagonal()).state_dict()),
        "needs a checkpoint of NegExpDiagonal .* Got one of ZeroDiagonal. Load plain_state_dict of its model",
    ),
    "a checkpoint of another chain": (
        lambda: model_with(Diagonal()).load_state_dict(
            register(nn.Sequential(nn.Linear(4, 4)), {"0.weight": [Diagonal(), NegExpDiagonal()]}).state_dict()
        ),
        "needs a checkpoint of Diagonal .* Got one of Diagonal, then NegExpDiagonal",
    ),
    "conversion of another checkpoint": (
        lambda: plain_state_dict(model_with(NegExpDiagonal()), model_with(ZeroDiagonal()).state_dict()),
        "plain_state_dict needs a checkpoint of NegExpDiagonal .* Got one of ZeroDiagonal",
    ),
    "a function without MaskedSparse": (
        lambda: register_(nn.Linear(4, 4), {"weight": lambda w: w > 0}),
        r"Got function. Wrap a mask or its rule, as in MaskedSparse\(",
    ),
    "a class of pruned layers": (
        lambda: register(pruning.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), {nn.Linear: Diagonal()}),
        r"register needs a parameter for Linear. Got a tensor computed by torch.nn.utils.prune",
    ),
    "baking a plain model": (lambda: bake(nn.Linear(4, 4), "weight"), "Constrain the model first, with register"),
    "a class by its name": (
        lambda: register(nn.Sequential(nn.Linear(4, 4)), {"nn.Linear": Diagonal()}),
        "Pass the class itself, such as nn.Linear, for every layer",
    ),
    "a class of containers": (
        lambda: register(nn.Sequential(nn.Linear(4, 4)), {nn.Sequential: Diagonal()}),
        "Got none in modules of this class. Pass a class of layers with one of their own",
    ),
    "a diagonal instead of the weight": (
        lambda: setattr(model_with(Diagonal())[0], "weight", torch.ones(4)),
        r"Diagonal needs a weight of shape \(4, 4\). Got \(4,\)",
    ),
    "a pretrained checkpoint after registering": (
        lambda: masked().load_state_dict({"0.weight": torch.ones(4, 4), "0.bias": torch.ones(4)}),
        "To choose the mask from this checkpoint, load it into the plain model, then register",
    ),
    "two patterns": (lambda: bake_(masked(), "0.weight", "1.weight"), r"Write bake\(model, patterns=None"),
    "own: project gives nothing": (own(project=lambda _, weight: None), "Got NoneType. Is a return missing"),  # noqa: ARG005
    "own: project transposes": (rectangular(project=lambda _, w: w.mT), r"project\(weight\) has to keep the shape"),
    "own: adopt without the base": (own(adopt=lambda _, weight: None), r"to call super\(\).adopt\(weight\)"),  # noqa: ARG005
    "own: right_inverse": (own(right_inverse=lambda _, w: w.clone()), "Define project, excess and invert instead"),
    "own: a convolution": (
        lambda: register(nn.Conv2d(3, 4, 3), {"weight": Own()}),
        "Register it on a matrix.* or set dims in Own; None takes any number",
    ),
    "own: no super().__init__()": (own(__init__=no_super), r"Mine needs super\(\).__init__\(\), called first"),
    "own: an excess that is no tensor": (own(excess=lambda _, weight: False), "to return real floats.* Got bool"),  # noqa: ARG005
    "own: an excess for all entries": (own(excess=lambda _, weight: weight.sum()), r"Got torch.float32 of shape \(\)"),
    "own: a method stored_shape": (own(stored_shape=lambda _: (4, 4)), "needs a property stored_shape.* Got method"),
    "own: another stored_shape": (own(stored_shape=torch.Size([16])), r"Got \(16,\) for a stored tensor of .*\(4, 4\)"),
    "own: forward gives nothing": (
        own(forward=lambda _, x: None),  # noqa: ARG005
        r"Mine needs forward\(x\) to return a tensor of torch.float32 and of .* shape, \(4, 4\). Got NoneType",
    ),
    "own: forward changes the shape": (
        own(forward=lambda _, x: x[:, :1]),
        r"Got torch.float32 of shape \(4, 1\). Expand or convert the result",
    ),
    "an option of the policy, misspelt": (
        lambda: setattr(Diagonal(), "on_infeasible", "clip"),
        r"Diagonal needs on_infeasible to be 'raise' or 'project'. Got 'clip'",
    ),
    "a rule for signs as a mask": (lambda: sparse_(signs.dale()), r"Got a rule for signs. Write Signed\(dale\(0.8\)\)"),
    "another map afterwards": (
        lambda: setattr(Signed(1), "map", "softplus"),
        r"Signed needs the name 'map' for a property. .* pass options when you create the object",
    ),
    "signs of each input channel": (
        lambda: register(nn.Conv2d(4, 4, 3), {"weight": Signed(torch.tensor([1, 1, -1, -1]))}),
        r"Got shape \(4,\). Use e.g. \(in, 1, 1\) for a sign of each input channel",
    ),
    "blocks before the rule": (lambda: masks.per_block(4, RANDOM), r"needs a mask rule. Got int. Pass e.g. \(masks"),  # type: ignore[arg-type]
    "a name without a dense gradient": (
        other_gradient,
        r"needs the name of a constrained weight. Got '0.bias'. The names are '0.weight'. Other parameters have grad",
    ),
    "signs before zeros": (
        lambda: model_with(Signed(1), ZeroDiagonal()),
        r"outside the set of Signed.* Signed comes last, after the constraints that set entries to zero",
    ),
    "blocks beside the mask": (
        lambda: sparse_(masks.lower_triangular(), blocks=4),
        r"Write MaskedSparse\(mask, .* Pass blocks and axes to the rule",
    ),
    "signs of a mask that moves": (
        lambda: remask(model_with(MaskedSparse(RANDOM), Signed(signs.as_is())), {"0.weight": RANDOM}, optimizer=None),
        r"remask needs signs for all entries of '0.weight'.* register it again with a sign for each: Signed\(",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_the_error_of_a_typical_mistake_names_the_remedy(call: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError, RuntimeError, KeyError), match=f"(?s){message}"):
        call()


def test_rules_that_look_at_the_wrong_values_warn() -> None:
    layer = nn.Linear(4, 4)
    with pytest.warns(UserWarning, match="none is zero. Load the pruned checkpoint first"):
        register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.nonzero())})
    nn.init.zeros_(layer.weight)
    with pytest.warns(UserWarning, match=r"magnitude\(0.5\) has nothing to compare: all entries are zero"):
        register(layer, {"weight": MaskedSparse(masks.magnitude(density=0.5))})


def test_a_rule_that_keeps_nothing_warns() -> None:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    with pytest.warns(UserWarning, match=r"nonzero\(\) keeps none of 16 entries: the weight stays zero"):
        register(layer, {"weight": MaskedSparse(masks.nonzero())})


def test_a_checkpoint_of_another_constraint_changes_nothing() -> None:
    model, other = model_with(NegExpDiagonal()), model_with(ZeroDiagonal())
    before = model[0].weight.detach()
    with pytest.raises(RuntimeError, match="The tensor stays as it was"):
        model.load_state_dict(other.state_dict())
    assert torch.equal(model[0].weight, before)
    model.load_state_dict(dict(other.state_dict()))  # has no names of classes
    assert not torch.equal(model[0].weight, before)
    assert plain_state_dict(other)._metadata == bake(other).state_dict()._metadata  # type: ignore[attr-defined]


def test_explain_says_which_layers_read_the_weight_themselves() -> None:
    gru = register(nn.GRU(4, 4), {"weight_ih_l0": MaskedSparse(masks.random(density=0.5))})
    assert explain(gru).why == "GRU reads its tensors itself"
    assert (
        explain(register(nn.Embedding(4, 4), {"weight": ZeroDiagonal()})).why
        == "Embedding reads the dense weight itself"
    )


def test_the_rows_of_a_table_can_be_iterated() -> None:
    assert tuple(summary(masked())) == summary(masked()).rows


class Symmetric(Parametrization):
    needs = "the weight to equal its transpose"

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return (weight - weight.mT).abs()

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.forward(weight)


@pytest.mark.parametrize("by_torch", [False, True])
def test_a_constraint_that_fails_on_a_shape_is_named(by_torch: bool) -> None:
    layer = nn.Linear(3, 4)
    attach: Any = register_parametrization if by_torch else lambda layer, name, step: register(layer, {name: step})
    with pytest.raises(ValueError, match=r"Symmetric cannot start from a weight of shape \(4, 3\).*Override adopt"):
        attach(layer, "weight", Symmetric())
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("rule", [masks.random, masks.magnitude, masks.erdos_renyi, masks.global_magnitude])
@pytest.mark.parametrize("option", ["sparsity", "amount"])
def test_an_unknown_option_of_a_rule_names_the_density(rule: Any, option: str) -> None:
    with pytest.raises(
        TypeError, match=rf"Got \w+\({option}=0.9\). Write {rule.__name__}\(density=.* is the share to keep: amount=0.9"
    ):
        rule(**{option: 0.9})


@pytest.mark.parametrize("rule", [masks.random, masks.magnitude, masks.erdos_renyi, masks.global_magnitude])
def test_an_unknown_option_beside_the_density_is_not_called_a_missing_density(rule: Any) -> None:
    with pytest.raises(TypeError, match=r"Got \w+\(density=0.1, seed=0\). Write \w+\(density=\.\.\."):
        rule(density=0.1, seed=0)


def test_a_matrix_constraint_on_a_stack_names_the_mask_and_the_axes() -> None:
    with pytest.raises(
        ValueError, match=r"needs weights with 2 dimensions for Bilinear.*Use MaskedSparse, or pass axes\."
    ):
        register(nn.Sequential(nn.Bilinear(3, 3, 3)), {nn.Bilinear: ZeroDiagonal()})


def test_tune_without_inputs_asks_for_them() -> None:
    with pytest.raises(TypeError, match=r"tune needs the inputs of the model. Got none \(.*Pass a batch"):
        tune(fused(Diagonal))


@every
def test_a_call_without_input_names_the_layer(make: Callable[[], Parametrization]) -> None:
    with pytest.raises(TypeError, match=r"^Linear.forward\(\) missing 1 required positional argument: 'input'"):
        fused(make)()


def test_a_registered_object_is_not_checked() -> None:
    layer: Any = register(nn.Linear(4, 3), {"weight": ZeroDiagonal()})
    with pytest.raises(ValueError, match=r"unregistered object. Got a ZeroDiagonal for a weight of shape \(3, 4\)"):
        check_parametrization(layer.parametrizations.weight[0], torch.ones(3, 4))


def test_a_pattern_that_meets_a_vector_lists_the_matrices() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Bilinear(4, 4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"Got '1.weight' of shape \(4,\). Narrow .* fit: '0.weight', '3.weight'"):
        register(model, {"*.weight": ZeroDiagonal()})
    assert not summary(model).rows
