"""Tied parameters are constrained once, and stay tied."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    bake,
    dense_gradients,
    explain,
    masks,
    plain_state_dict,
    register,
    remask,
    summary,
    tune,
)
from tests.layers import of_the_compiler

INPUT = torch.arange(10).view(2, 5)


class Language(nn.Module):
    """An embedding, a hidden layer, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.hidden(self.embedding(tokens)).tanh())
        return output


CONSTRAINTS: dict[str, Callable[[], Any]] = {
    "Diagonal": Diagonal,
    "ZeroDiagonal": ZeroDiagonal,
    "blocks": lambda: ZeroDiagonal(blocks=3),
    "MaskedSparse": lambda: MaskedSparse(masks.random(density=0.5, generator=torch.Generator().manual_seed(0))),
    "chain": lambda: [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
}
every_constraint = pytest.mark.parametrize("make", CONSTRAINTS.values(), ids=CONSTRAINTS)


def tied(make: Callable[[], Any]) -> Any:
    return register(Language(), {"*.weight": make(), "hidden.weight": None})


def require_tied(model: Any) -> None:
    one, other = model.embedding.parametrizations.weight, model.head.parametrizations.weight
    assert one.original is other.original
    assert list(one.children()) == list(other.children())
    assert torch.equal(model.embedding.weight, model.head.weight)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        model(INPUT).square().sum().backward()
        optimizer.step()


@every_constraint
def test_a_tied_parameter_is_constrained_once(make: Callable[[], Any]) -> None:
    model = Language()
    parameter, optimizer = model.embedding.weight, torch.optim.Adam(model.parameters())
    train(model, optimizer)
    register(model, {"*.weight": make(), "hidden.weight": None}, optimizer=optimizer)
    require_tied(model)
    assert [name for name, x in model.named_parameters() if x is parameter] == [
        "embedding.parametrizations.weight.original"
    ]
    before = parameter.detach().clone()
    train(model, optimizer)
    assert not torch.equal(parameter, before)
    require_tied(model)
    assert [(row.name, row.holds) for row in summary(model).rows] == [("embedding.weight", True)]


@every_constraint
def test_the_gradient_is_the_sum_over_both_uses(make: Callable[[], Any]) -> None:
    model = tied(make)
    plain = bake(model)
    with dense_gradients(model) as gradients:
        model(INPUT).square().sum().backward()
    plain(INPUT).square().sum().backward()
    torch.testing.assert_close(gradients["embedding.weight"][:], plain.embedding.weight.grad)
    (expected,) = torch.autograd.grad(
        model.embedding.parametrizations.weight(),
        model.embedding.parametrizations.weight.original,
        plain.embedding.weight.grad,
    )
    torch.testing.assert_close(model.embedding.parametrizations.weight.original.grad, expected)


@every_constraint
def test_copies_checkpoints_and_baking_keep_the_tie(make: Callable[[], Any]) -> None:
    model = tied(make)
    require_tied(copy.deepcopy(model))
    other, file = tied(make), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    require_tied(other)
    assert torch.equal(other(INPUT), model(INPUT))
    plain = plain_state_dict(model)
    assert plain["embedding.weight"] is plain["head.weight"]
    assert list(plain) == list(Language().state_dict())
    other = Language()
    other.load_state_dict(plain)
    assert torch.equal(other.head.weight, model.head.weight)
    register(other, {"*.weight": make(), "hidden.weight": None}).load_state_dict(plain)
    require_tied(other)
    for baked in (bake(model), bake(model, "head.*"), bake(model, nn.Embedding), bake(model, inplace=True)):
        assert type(baked.embedding) is nn.Embedding
        assert type(baked.head) is nn.Linear
        assert baked.embedding.weight is baked.head.weight
        torch.testing.assert_close(baked(INPUT), other(INPUT))


@every_constraint
def test_assigning_and_resetting_one_owner_changes_both(make: Callable[[], Any]) -> None:
    model = tied(make)
    model.head.weight = model.head.weight.detach() * 0.5
    require_tied(model)
    before = model.head.weight.detach()
    model.head.reset_parameters()
    require_tied(model)
    assert not torch.equal(model.head.weight, before)


def test_inside_cached_the_weight_is_computed_once() -> None:
    model = tied(ZeroDiagonal)
    calls = []
    model.embedding.parametrizations.weight.register_forward_hook(lambda *_: calls.append(1))
    with cached():
        model(INPUT)
    assert len(calls) == 1


def test_a_mask_moves_for_both_owners() -> None:
    model = tied(CONSTRAINTS["MaskedSparse"])
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    remask(model, {nn.Linear: masks.magnitude(density=0.25)}, optimizer=optimizer)
    require_tied(model)
    assert int(model.embedding.weight.count_nonzero()) == 24
    train(model, optimizer)
    other = tied(CONSTRAINTS["MaskedSparse"])
    other.load_state_dict(model.state_dict())  # another number of entries
    require_tied(other)
    assert torch.equal(other.head.weight, model.head.weight)


def test_the_head_takes_the_product_of_the_constraint() -> None:
    model = tied(Diagonal)
    assert explain(model.head).product == "elementwise"
    assert [row.chosen for row in tune(model, INPUT).rows] == [explain(model.head).product]


@of_the_compiler
@every_constraint
def test_a_tied_model_compiles_and_exports(make: Callable[[], Any]) -> None:
    model = tied(make)
    torch.compiler.reset()
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(INPUT), model(INPUT))
    torch.testing.assert_close(torch.export.export(model, (INPUT,)).module()(INPUT), model(INPUT))


def test_baking_one_owner_in_place_leaves_the_other_constrained() -> None:
    model = tied(Diagonal)
    before = model.embedding.weight.detach()
    bake(model.head, inplace=True)
    assert type(model.head) is nn.Linear
    assert torch.equal(model.embedding.weight, before)
    assert torch.equal(model.head.weight, before)


def test_a_second_constraint_and_third_party_ones_are_shared() -> None:
    model = tied(lambda: MaskedSparse(masks.lower_triangular()))
    register(model, {"embedding.weight": NegExpDiagonal()})
    require_tied(model)
    assert bool((model.head.weight.diagonal() < 0).all())
    other = tied(nn.Identity)
    require_tied(other)


@pytest.mark.parametrize("tie_weights", [True, False])
@every_constraint
def test_functional_call_restores_the_model(make: Callable[[], Any], tie_weights: bool) -> None:
    model = tied(make)
    before, expected = dict(model.named_parameters()), model(INPUT)
    doubled = {name: parameter.detach() * 2 for name, parameter in before.items()}
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    if tie_weights:
        torch.testing.assert_close(torch.func.functional_call(model, doubled, (INPUT,)), other(INPUT))
    else:
        torch.func.functional_call(model, doubled, (INPUT,), tie_weights=False)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    require_tied(model)
    assert torch.equal(model(INPUT), expected)


@every_constraint
def test_new_stored_tensors_stay_tied(make: Callable[[], Any]) -> None:
    model, other = tied(make), tied(make)
    other.load_state_dict(model.state_dict(), assign=True)
    require_tied(other)
    with torch.device("meta"):
        empty = Language()
        empty.head.weight = empty.embedding.weight
    register(empty, {"*.weight": make(), "hidden.weight": None}).to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    require_tied(empty)
    assert torch.equal(empty(INPUT), model(INPUT))
    require_tied(model.double())


@every_constraint
def test_safetensors_saves_a_tied_model(make: Callable[[], Any], tmp_path: Path) -> None:
    model, other = tied(make), tied(make)
    save_model(model, str(tmp_path / "file"))
    load_model(other, str(tmp_path / "file"))
    require_tied(other)
    assert torch.equal(other(INPUT), model(INPUT))


WRONG: dict[str, tuple[dict[Any, Any], str]] = {
    "one owner": (
        {"head.weight": ZeroDiagonal()},
        r"Got 'head.weight' without 'embedding.weight'.* exclude it: {'head.weight': None}.* To untie",
    ),
    "one owner by its class": ({nn.Linear: ZeroDiagonal()}, r"exclude it: {'head.weight': None}"),
    "two constraints": (
        {nn.Linear: ZeroDiagonal(), nn.Embedding: ZeroDiagonal()},
        "needs one parameter and one constraint for tied weights. Got two parameters or two constraints for "
        "'head.weight' and 'embedding.weight'",
    ),
}


@pytest.mark.parametrize(("rules", "message"), WRONG.values(), ids=WRONG)
def test_a_part_of_the_owners_is_refused(rules: Any, message: str) -> None:
    model = Language()
    with pytest.raises(ValueError, match=message):
        register(model, rules)
    assert model.head.weight is model.embedding.weight
    assert not summary(model).rows


def test_one_object_under_two_keys_is_one_constraint() -> None:
    step = ZeroDiagonal()
    model = register(Language(), {nn.Linear: step, nn.Embedding: step, "hidden.*": None})
    require_tied(model)
    assert not register(Language(), {nn.Linear: ZeroDiagonal(), "head.weight": None}).hidden.weight.diagonal().any()
    rule = masks.random(density=0.5)
    model = tied(CONSTRAINTS["MaskedSparse"])
    remask(model, {"embedding.weight": rule, "head.weight": rule}, optimizer=None)
    with pytest.raises(ValueError, match=r"Got two for 'embedding.weight'"):
        remask(model, {"embedding.weight": rule, "head.weight": masks.random(density=0.5)}, optimizer=None)
