"""`remask`: training continues unchanged for the remaining entries; rollback on errors; refusals."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import register_parametrization, transfer_parametrizations_and_params
from torch.optim import Optimizer

from benchmarks.training import HUGE, rigl_in_a_huge_layer
from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    bake,
    dense_gradients,
    explain,
    masks,
    plain_state_dict,
    register,
    remask,
    summary,
)
from parametrizations.masks import Kept, MaskRule
from tests.layers import of_the_compiler
from tools.injection import Injected, everything, fail_at, held_by

OPTIMIZERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "SGD with dampening": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "Nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.1}),
    "AMSGrad": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.1}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    "Rprop": (torch.optim.Rprop, {"lr": 0.02}),
    "Adamax": (torch.optim.Adamax, {"lr": 0.1}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.1}),
    "RAdam": (torch.optim.RAdam, {"lr": 0.1}),
    "Adadelta": (torch.optim.Adadelta, {"lr": 1.0}),
    "ASGD": (torch.optim.ASGD, {"lr": 0.1}),
}
FRESH = {"Adagrad": {"sum": 0.5}, "Rprop": {"step_size": 0.02}}
FUSED = ("SGD", "SGD with dampening", "Nesterov", "Adam", "AMSGrad", "AdamW", "Adagrad")
WAYS = [
    *((name, {"foreach": foreach}) for name in OPTIMIZERS for foreach in (False, True)),
    *((name, {"fused": True}) for name in FUSED),
]


class Dense:
    """A reference: a dense weight, its mask, and a dense optimizer with masked state."""

    def __init__(self, weight: Tensor, mask: Tensor, name: str, options: dict[str, Any]) -> None:
        kind, given = OPTIMIZERS[name]
        self.weight, self.mask, self.name = nn.Parameter(torch.where(mask, weight, 0)), mask, name
        self.optimizer = kind([self.weight], **given, **options)

    def step(self, inputs: Tensor) -> None:
        loss_of(inputs @ (self.weight * self.mask).mT).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def move(self, mask: Tensor) -> None:
        comes = mask & ~self.mask
        with torch.no_grad():
            self.weight[comes] = 0
            self.weight.mul_(mask)
        for key, value in self.optimizer.state[self.weight].items():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                value[comes] = FRESH.get(self.name, {}).get(key, 0)
        self.mask = mask


def loss_of(outputs: Tensor) -> Tensor:
    return (outputs - 1).square().mean() + outputs.sin().sum()


@pytest.mark.parametrize(("name", "options"), WAYS, ids=lambda part: str(part))
def test_training_continues_unchanged_for_the_remaining_entries(name: str, options: dict[str, Any]) -> None:
    for seed in range(20):
        generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
        layer: Any = nn.Linear(6, 5, bias=False, dtype=torch.float64)
        mask = torch.rand(5, 6, generator=generator) < 0.5
        weight = layer.weight.detach().clone()
        register(layer, {"weight": MaskedSparse(mask)})
        kind, given = OPTIMIZERS[name]
        optimizer = kind(layer.parameters(), **given, **options)
        dense = Dense(weight, mask, name, options)
        for update in range(4):
            for _ in range(3):
                inputs = torch.randn(4, 6, generator=generator, dtype=torch.float64)
                loss_of(layer(inputs)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                dense.step(inputs)
            mask = torch.rand(5, 6, generator=generator) < (0.2 + 0.2 * update)
            remask(layer, {"weight": mask}, optimizer=optimizer)
            dense.move(mask)
            assert torch.equal(layer.parametrizations.weight[0].mask, mask)
            torch.testing.assert_close(layer.weight, dense.weight)


def model(density: float = 0.4, width: int = 6) -> Any:
    made = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    rule = masks.random(density=density, generator=torch.Generator().manual_seed(1))
    return register(made, {"[02].weight": MaskedSparse(rule)})


def stored(made: Any, place: int = 0) -> nn.Parameter:
    x: nn.Parameter = made[place].parametrizations.weight.original
    return x


def sparse(made: Any, place: int = 0) -> MaskedSparse:
    step = made[place].parametrizations.weight[0]
    assert isinstance(step, MaskedSparse)
    return step


def trained(made: Any, kind: Callable[..., Optimizer] = torch.optim.Adam, steps: int = 3) -> Optimizer:
    optimizer = kind(made.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        made(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
    return optimizer


def test_remaining_entries_keep_value_gradient_and_state_and_new_ones_start_fresh() -> None:
    made = model()
    optimizer = trained(made)
    x, was = stored(made), sparse(made).mask
    state = optimizer.state[x]
    before = {key: spread(made, value) for key, value in {"x": x, "grad": x.grad, **state}.items()}
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[::2] = True
    remask(made, {"0.weight": mask}, optimizer=optimizer)
    assert stored(made) is x
    after = {key: spread(made, value) for key, value in {"x": x, "grad": x.grad, **optimizer.state[x]}.items()}
    assert int(after["step"]) == 3
    for key in ("x", "grad", "exp_avg", "exp_avg_sq"):
        assert torch.equal(after[key], torch.where(was & mask, before[key], 0)), key
        assert bool(before[key][was].any()), key


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Rprop], ids=lambda kind: kind.__name__)
def test_complex_entries_start_as_a_fresh_optimizer_starts_them(kind: Any) -> None:
    def layer() -> Any:
        made = nn.Linear(4, 4, bias=False, dtype=torch.complex64)
        return register(made, {"weight": MaskedSparse(torch.zeros(4, 4).bool())})

    def stepped(made: Any, optimizer: Optimizer) -> Tensor:
        made(torch.ones(1, 4, dtype=torch.complex64)).abs().square().sum().backward()
        optimizer.step()
        entries: Tensor = made.weight.detach()
        return entries

    options = {"initial_accumulator_value": 0.5} if kind is torch.optim.Adagrad else {}
    made = layer()
    optimizer = kind(made.parameters(), **options)
    stepped(made, optimizer)
    remask(made, {"weight": torch.eye(4).bool()}, optimizer=optimizer)
    with torch.no_grad():
        made.parametrizations.weight.original.add_(1j)
    fresh = register(nn.Linear(4, 4, bias=False, dtype=torch.complex64), {"weight": MaskedSparse(torch.eye(4).bool())})
    fresh.load_state_dict(made.state_dict())
    torch.testing.assert_close(stepped(made, optimizer), stepped(fresh, kind(fresh.parameters(), **options)))


def spread(made: Any, entries: Any) -> Tensor:
    """Scatter a value per entry to the positions in the weight."""
    if entries.dim() == 0:
        return torch.as_tensor(entries)
    return torch.zeros(6, 6).masked_scatter(sparse(made).mask, entries.detach())


def test_parameters_keep_identity_hooks_groups_and_order() -> None:
    made = model()
    seen: list[torch.Size] = []
    stored(made).register_hook(lambda grad: seen.append(grad.shape))  # type: ignore[no-untyped-call]
    stored(made).register_post_accumulate_grad_hook(lambda x: seen.append(x.shape))  # type: ignore[no-untyped-call]
    first: dict[str, Any] = {"params": [stored(made)], "lr": 0.5}
    optimizer = torch.optim.Adam([first, {"params": [stored(made, 2)]}])
    groups = [[id(x) for x in group["params"]] for group in optimizer.param_groups]
    names = [name for name, _ in made.named_parameters()]
    for density in (0.4, 0.1, 0.8):
        made(torch.ones(1, 6)).sum().backward()
        optimizer.step()
        remask(made, {"*": masks.random(density=density)}, optimizer=optimizer)
    made(torch.ones(1, 6)).sum().backward()
    assert [[id(x) for x in group["params"]] for group in optimizer.param_groups] == groups
    assert [name for name, _ in made.named_parameters()] == names
    assert seen == [torch.Size([count]) for count in (14, 14, 14, 14, 4, 4, 29, 29)]


def test_a_layer_keeps_its_class_and_its_checkpoint_loads_into_the_first_mask() -> None:
    made, fresh = model(), model()
    kind = type(made[0])
    remask(made, {"*": masks.magnitude(density=0.2)}, optimizer=None)
    assert type(made[0]) is kind
    assert repr(sparse(made)).startswith("MaskedSparse(mask=magnitude(0.2), ")
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh[0].weight, made[0].weight)
    plain = bake(made)
    torch.testing.assert_close(plain(torch.ones(1, 6)), made(torch.ones(1, 6)))
    torch.testing.assert_close(plain_state_dict(made), plain.state_dict(), rtol=0, atol=0)


RULES: dict[str, Any] = {
    "a mask": torch.eye(6).bool(),
    "an array": torch.eye(6, device="cpu").bool().numpy(),
    "a callable": lambda weight: weight > 0,
    "random": masks.random(density=0.3),
    "magnitude": masks.magnitude(density=0.3),
    "n_of_m": masks.n_of_m(1, 3),
    "banded": masks.banded(1, 0),
    "lower_triangular": masks.lower_triangular(),
    "block_diagonal": masks.block_diagonal(3),
    "from_edges": masks.from_edges([(0, 1), (0, 1)]),
    "autoregressive": masks.autoregressive(range(6), range(6)),
    "erdos_renyi": masks.erdos_renyi(density=0.3),
    "global_magnitude": masks.global_magnitude(density=0.3),
    "evolutionary": masks.evolutionary(0.3),
    "rigl": masks.rigl(0.3, {"0.weight": torch.randn(6, 6), "2.weight": torch.randn(6, 6)}),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_moves_a_mask(rule: Any) -> None:
    made = model()
    before = sparse(made).mask
    weight = made[0].weight.detach()
    remask(made, {"*.weight": rule}, optimizer=None)
    after = sparse(made).mask
    assert not torch.equal(before, after)
    assert torch.equal(made[0].weight, torch.where(before & after, weight, 0))
    assert summary(made).rows[0].stored == int(after.sum()) == stored(made).numel()
    assert all(row.holds for row in summary(made).rows)
    made(torch.ones(2, 6)).sum().backward()


def test_a_rule_sees_the_current_weight_and_may_write_into_it() -> None:
    made = model()
    seen: list[Tensor] = []

    def negative(weight: Tensor) -> Tensor:
        seen.append(weight.clone())
        return weight.zero_() == 0

    weight = made[0].weight.detach()
    remask(made, {"0.weight": negative}, optimizer=None)
    torch.testing.assert_close(seen, [weight], rtol=0, atol=0)
    assert torch.equal(made[0].weight, weight)


def test_a_rule_on_kept_entries_tells_those_that_are_zero() -> None:
    made = model()
    nn.init.zeros_(stored(made))
    seen: list[Kept] = []

    def all_of_them(kept: Kept) -> Tensor:
        seen.append(kept)
        kept.values.fill_(7)
        return kept.places.flip(0)

    remask(made, {"0.weight": MaskRule("mine", lambda weight: weight > 0, all_of_them)}, optimizer=None)
    assert [(kept.name, kept.shape) for kept in seen] == [("0.weight", torch.Size([6, 6]))]
    assert stored(made).tolist() == [0] * 14


def test_a_mask_that_stays_changes_nothing() -> None:
    made = model()
    optimizer = trained(made)
    before, held = everything(made), held_by(optimizer)
    remask(made, {"*": masks.evolutionary(0)}, optimizer=optimizer)
    assert everything(made) == before
    assert held_by(optimizer) == held


def test_a_rule_for_several_tensors_sees_them_together() -> None:
    made = model()
    with torch.no_grad():
        stored(made, 2).mul_(1000)
    rule = masks.global_magnitude(density=18 / 72)
    remask(made, {"0.weight": rule, "2.weight": rule}, optimizer=None)
    assert (stored(made).numel(), stored(made, 2).numel()) == (4, 14)
    remask(
        made,
        {"0.weight": masks.global_magnitude(density=4 / 36), "2.weight": masks.global_magnitude(density=4 / 36)},
        optimizer=None,
    )
    assert (stored(made).numel(), stored(made, 2).numel()) == (4, 4)


def test_constraints_on_top_hold_with_the_new_mask() -> None:
    layer: Any = register(nn.Linear(4, 4), {"weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]})
    weight = layer.weight.detach()
    seen: list[Tensor] = []
    keep = torch.eye(4).bool()
    keep[3, 0] = keep[0, 3] = True
    remask(layer, {"weight": lambda shown: seen.append(shown) or keep}, optimizer=None)  # type: ignore[func-returns-value]
    torch.testing.assert_close(seen, [weight])
    assert torch.equal(layer.weight, torch.where(keep, weight, 0))
    before = everything(layer)
    with pytest.raises(
        ValueError, match=r"cannot change the mask of 'weight'. The parametrizations of 'weight' need to hold"
    ):
        remask(layer, {"weight": ~torch.eye(4).bool()}, optimizer=None)
    assert everything(layer) == before
    remask(
        layer,
        {"weight": MaskRule("largest", lambda weight: weight != 0, lambda kept: kept.places[kept.values < 0])},
        optimizer=None,
    )
    assert bool((layer.weight.diagonal() < 0).all())


def test_a_layer_of_pytorchs_own_registration_and_a_buffer() -> None:
    layer: Any = register_parametrization(nn.Linear(4, 4), "weight", MaskedSparse(masks.random(density=0.5)))
    layer.register_buffer("seen", torch.randn(3, 3))
    register_parametrization(layer, "seen", MaskedSparse(masks.lower_triangular()))
    remask(layer, {"weight": masks.magnitude(density=0.25), "seen": torch.eye(3).bool()}, optimizer=None)
    assert (int((layer.weight != 0).sum()), int((layer.seen != 0).sum())) == (4, 3)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_the_smallest_shapes(shape: tuple[int, int]) -> None:
    layer: Any = register(nn.Linear(shape[1], shape[0]), {"weight": MaskedSparse(torch.zeros(shape).bool())})
    optimizer = torch.optim.Adam(layer.parameters())
    gradient = {"weight": torch.ones(shape)}
    for rule in (
        torch.ones(shape).bool(),
        masks.evolutionary(1.0),
        masks.rigl(1.0, gradient),
        masks.magnitude(density=1e-3),
        masks.erdos_renyi(density=1.0),
        masks.random(density=1.0),
        masks.global_magnitude(density=1.0),
    ):
        layer(torch.ones(2, shape[1])).sum().backward()
        optimizer.step()
        remask(layer, {"weight": rule}, optimizer=optimizer)
    assert stored(nn.Sequential(layer)).numel() == shape[0] * shape[1]


def test_meta_weights_take_rules_of_shape() -> None:
    with torch.device("meta"):
        layer: Any = register(nn.Linear(2**12, 2**12), {"weight": MaskedSparse(masks.from_edges([(1, 2)]))})
    remask(layer, {"weight": masks.random(density=1e-6)}, optimizer=None)
    assert layer.parametrizations.weight.original.is_meta
    assert layer.parametrizations.weight.original.numel() == round(1e-6 * 2**24)
    with pytest.raises(
        ValueError, match=r"evolutionary\(0.5\) needs the values of the weight. Got a weight on the meta"
    ):
        remask(layer, {"weight": masks.evolutionary(0.5)}, optimizer=None)


def test_copies_part_ways() -> None:
    made = model()
    twin = copy.deepcopy(made)
    before = everything(made)
    remask(twin, {"*": masks.random(density=0.1)}, optimizer=None)
    assert everything(made) == before
    assert stored(twin).numel() == 4
    pickle.loads(pickle.dumps(made.state_dict()))


def test_a_cached_weight_is_forgotten() -> None:
    made = model()
    with parametrize.cached():
        old = made[0].weight
        remask(made, {"*": masks.magnitude(density=0.1)}, optimizer=None)
        assert int((made[0].weight != 0).sum()) == 4
        assert int((old != 0).sum()) == 14


def test_a_model_remasked_in_inference_mode_trains() -> None:
    made = model()
    optimizer = trained(made)
    with torch.inference_mode():
        remask(made, {"*": masks.evolutionary(0.5)}, optimizer=optimizer)
    made(torch.ones(1, 6)).sum().backward()
    optimizer.step()


def test_an_old_loss_does_not_affect_the_next_pass() -> None:
    made = model()
    kept = made(torch.ones(1, 6)).sum()
    kept.backward()
    for density in (0.4, 0.2):
        remask(made, {"*": masks.random(density=density)}, optimizer=None)
        made(torch.ones(1, 6)).sum().backward()
    assert kept.requires_grad


def test_a_gradient_scaler_keeps_working() -> None:
    made = model()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        scaler.scale(made(torch.ones(2, 6)).sum()).backward()
        remask(made, {"*": masks.random(density=0.3)}, optimizer=optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() == 65536


@of_the_compiler
@pytest.mark.parametrize("density", [0.4, 0.1])
@pytest.mark.parametrize("product", ["dense", "strips", "csr"])
def test_a_compiled_model_follows(density: float, product: Any) -> None:
    torch.compiler.reset()
    made: Any = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    register(made, {"0.weight": MaskedSparse(masks.random(density=0.4), product=product)})
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    compiled: Any = torch.compile(made, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        output = compiled(torch.ones(2, 6))
        output.sum().backward()
        grad = stored(made).grad
        assert grad is not None
        found = grad.clone()
        made.zero_grad()
        expected = made(torch.ones(2, 6))
        expected.sum().backward()
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(found, stored(made).grad)
        optimizer.step()
        remask(made, {"*": masks.random(density=density)}, optimizer=optimizer)
        made.zero_grad()


@pytest.mark.slow
def test_a_failure_at_any_line_leaves_model_and_optimizer_unchanged() -> None:
    rules: dict[str, Any] = {
        "0.weight": masks.evolutionary(0.5),
        "2.weight": masks.global_magnitude(density=0.2),
    }
    made = model()
    optimizer = trained(made)
    lines = fail_at(0, partial(remask, copy.deepcopy(made), rules, optimizer=None))
    assert lines > 200
    steps = 0
    before, held = everything(made), held_by(optimizer)
    while True:
        steps += 1
        try:
            fail_at(steps, partial(remask, made, rules, optimizer=optimizer))
        except Injected:
            assert everything(made) == before, f"step {steps}"
            assert held_by(optimizer) == held, f"step {steps}"
        else:
            break
    assert steps > lines
    made(torch.ones(1, 6)).sum().backward()
    optimizer.step()


class Packed(torch.optim.SGD):
    """An optimizer with state that has neither one number per entry nor one for all."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for tensor in group["params"]:
                self.state[tensor]["scales"] = torch.ones(2)
        return super().step(closure)


REFUSED: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "no model": (
        lambda _: remask(3, {}, optimizer=None),  # type: ignore[type-var]
        TypeError,
        "remask needs a model and a mapping .* Got int and dict",
    ),
    "no mapping": (
        lambda made: remask(made, masks.random(density=0.1), optimizer=None),  # type: ignore[arg-type]
        TypeError,
        "Got Sequential and MaskRule",
    ),
    "no name": (
        lambda made: remask(made, {0: masks.random(density=0.1)}, optimizer=None),
        TypeError,
        "needs names.* as keys. Got int",
    ),
    "a parametrization": (
        lambda made: remask(made, {"*": MaskedSparse(masks.random(density=0.1))}, optimizer=None),
        TypeError,
        r"remask needs a mask rule for '\*'. Got MaskedSparse. Pass the rule or the mask itself, without MaskedSparse",
    ),
    "a class": (
        lambda made: remask(made, {"*": MaskedSparse}, optimizer=None),  # type: ignore[dict-item]
        TypeError,
        "Got the class MaskedSparse",
    ),
    "a number": (
        lambda made: remask(made, {"*": 0.1}, optimizer=None),  # type: ignore[dict-item]
        TypeError,
        "needs a boolean tensor or a mask rule. Got float",
    ),
    "no match": (
        lambda made: remask(made, {"1.weight": masks.random(density=0.1)}, optimizer=None),
        ValueError,
        "remask needs a tensor with a mask for '1.weight'. Got no match .* close: '2.weight', '0.weight'",
    ),
    "no mask": (
        lambda made: remask(made, {"4.weight": masks.random(density=0.1)}, optimizer=None),
        ValueError,
        "needs a tensor with a mask for '4.weight'. Got '4.weight', which has no mask yet",
    ),
    "two rules": (
        lambda made: remask(made, {"*": masks.random(density=0.1), "0.*": masks.random(density=0.1)}, optimizer=None),
        ValueError,
        r"needs one rule for each tensor. Got two for '0.weight': '\*' and '0.\*'",
    ),
    "another shape": (
        lambda made: remask(made, {"0.*": torch.eye(5).bool()}, optimizer=None),
        ValueError,
        r"cannot change the mask of '0.weight'. MaskedSparse needs a mask of the weight's shape, \(6, 6\). Got shape",
    ),
    "another dtype": (
        lambda made: remask(made, {"0.*": lambda weight: weight}, optimizer=None),
        TypeError,
        r"cannot change the mask of '0.weight'.* torch.bool from the rule <lambda>. Got torch.float32",
    ),
    "no positions": (
        lambda made: remask(made, {"0.*": moving(lambda kept: kept.values)}, optimizer=None),
        TypeError,
        r"mine needs a move that returns positions: 1-D, int32 or int64. Got torch.float32 of shape \(14,\) on cpu",
    ),
    "repeated": (
        lambda made: remask(made, {"0.*": moving(lambda _: torch.tensor([3, 3]))}, optimizer=None),
        ValueError,
        r"mine needs a move that returns positions from 0 to 35, each once. Got some repeated, or out of range",
    ),
    "out of range": (
        lambda made: remask(made, {"0.*": moving(lambda _: torch.tensor([36]))}, optimizer=None),
        ValueError,
        r"positions from 0 to 35, each once",
    ),
    "negative": (
        lambda made: remask(made, {"0.*": moving(lambda _: torch.tensor([-1]))}, optimizer=None),
        ValueError,
        r"positions from 0 to 35, each once",
    ),
    "out of the range of four bytes": (
        lambda made: remask(made, {"0.*": moving(lambda _: torch.tensor([2**32 + 1, 2]))}, optimizer=None),
        ValueError,
        r"positions from 0 to 35, each once",
    ),
    "too many": (
        lambda made: remask(made, {"*": masks.magnitude(density=0.5)}, optimizer=None),
        ValueError,
        r"magnitude\(0.5\) needs to choose 18 of the kept entries. Got only 14; other entries have no value",
    ),
    "too many together": (
        lambda made: remask(made, {"*": masks.global_magnitude(density=0.5)}, optimizer=None),
        ValueError,
        r"global_magnitude\(0.5\) needs to choose 36 of the kept entries. Got only 28",
    ),
    "too few rules": (
        lambda made: remask(
            made, {"*": MaskRule("mine", lambda weight: weight > 0, spread=lambda _: [])}, optimizer=None
        ),
        TypeError,
        "mine needs to return a MaskRule for each of the 2 weights. Got 0 of type none",
    ),
    "no gradient": (
        lambda made: remask(made, {"*": masks.rigl(0.5, {"2.weight": torch.ones(6, 6)})}, optimizer=None),
        ValueError,
        r"rigl\(0.5\) needs the dense gradient of '0.weight'. Got those of '2.weight'",
    ),
    "the gradient of what is stored": (
        lambda made: remask(made, {"0.*": masks.rigl(0.5, {"0.weight": torch.ones(14)})}, optimizer=None),
        ValueError,
        r"rigl\(0.5\) needs a dense gradient of shape \(6, 6\) for '0.weight'. Got \(14,\)",
    ),
    "an infinite gradient": (
        lambda made: remask(
            made, {"0.*": masks.rigl(0.5, {"0.weight": torch.full((6, 6), torch.inf)})}, optimizer=None
        ),
        ValueError,
        r"rigl\(0.5\) needs a finite dense gradient of '0.weight'. Got one with NaN or infinity",
    ),
    "no optimizer": (
        lambda made: remask(made, {"*": masks.random(density=0.1)}, optimizer="Adam"),  # type: ignore[arg-type]
        TypeError,
        "remask needs a torch.optim.Optimizer. Got str",
    ),
    "another's optimizer": (
        lambda made: remask(made, {"*": masks.random(density=0.1)}, optimizer=torch.optim.Adam(model().parameters())),
        ValueError,
        "remask needs the optimizer of the changed parameters, such as '0.weight'",
    ),
    "LBFGS": (
        lambda made: remask(made, {"*": masks.random(density=0.1)}, optimizer=torch.optim.LBFGS(made.parameters())),
        ValueError,
        "needs an optimizer with state for each entry of '0.weight'. Got LBFGS",
    ),
}


def moving(move: Callable[[Kept], Tensor]) -> MaskRule:
    return MaskRule("mine", lambda weight: weight > 0, move)


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    call: Callable[[Any], object], kind: type[Exception], message: str
) -> None:
    made = model()
    before, drawn = everything(made), torch.get_rng_state()
    with pytest.raises(kind, match=message):
        call(made)
    assert everything(made) == before
    assert torch.equal(torch.get_rng_state(), drawn) or "optimizer" in message


def test_state_that_cannot_be_moved_is_refused() -> None:
    made = model()
    optimizer = trained(made, Packed)
    held = held_by(optimizer)
    with pytest.raises(
        ValueError, match=r"for each of the 14 stored numbers of '0.weight'.* Got Tensor 'scales' of shape"
    ):
        remask(made, {"*": masks.random(density=0.1)}, optimizer=optimizer)
    assert held_by(optimizer) == held
    made = model()
    optimizer = trained(made)
    remask(made, {"0.weight": masks.random(density=0.1)}, optimizer=None)
    with pytest.raises(
        ValueError, match=r"each of the 4 stored numbers of '0.weight'.* 'exp_avg' of shape \(14,\) in Adam"
    ):
        remask(made, {"0.weight": masks.random(density=0.2)}, optimizer=optimizer)


def test_tied_and_infinite_weights_are_refused() -> None:
    one, other = (nn.Linear(4, 4) for _ in range(2))
    register_parametrization(one, "weight", MaskedSparse(masks.random(density=0.5)))
    transfer_parametrizations_and_params(one, other)
    with pytest.raises(ValueError, match=r"untied tensor. Got one stored tensor for '0.weight', '1.weight'"):
        remask(nn.Sequential(one, other), {"0.weight": masks.random(density=0.1)}, optimizer=None)
    made = model()
    with torch.no_grad():
        stored(made)[3] = torch.nan
    with pytest.raises(ValueError, match=r"needs a finite weight.* Got '0.weight' with 1 of 14 stored numbers NaN"):
        remask(made, {"*": masks.evolutionary(0.1)}, optimizer=None)


def test_a_refusal_leaves_old_graphs() -> None:
    made = model()
    loss = made(torch.ones(1, 6)).sum()
    rules: dict[str, Any] = {"0.weight": masks.evolutionary(0.5), "2.weight": lambda _: torch.rand(6, 6)}
    with pytest.raises(TypeError, match=r"needs a mask of dtype torch.bool"):
        remask(made, rules, optimizer=None)
    loss.backward()
    assert stored(made).grad is not None


def test_an_optimizer_without_state_and_one_with_some_of_the_parameters() -> None:
    made = model()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    made(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    remask(made, {"*": masks.random(density=0.1)}, optimizer=optimizer)
    assert [key for key, state in optimizer.state.items() if state] == []
    some = torch.optim.Adam([stored(made, 2)])
    made(torch.ones(1, 6)).sum().backward()
    some.step()
    remask(made, {"*": masks.random(density=0.2)}, optimizer=some)
    assert some.state[stored(made, 2)]["exp_avg"].shape == stored(made, 2).shape
    assert stored(made) not in some.state


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's account of memory")
def test_a_huge_layer_is_trained_with_rigl_without_anything_dense() -> None:
    assert rigl_in_a_huge_layer() < HUGE * HUGE / 2**20  # less than one byte per entry


RESUME = """
import sys, torch
from torch import nn
sys.path.insert(0, {root!r})
from tests._models.test_remask import model, train_on
saved = torch.load({path!r}, weights_only=True)
made = model()
optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
made.load_state_dict(saved["model"])
optimizer.load_state_dict(saved["optimizer"])
generator = torch.Generator()
generator.set_state(saved["generator"])
train_on(made, optimizer, generator, range(10, 20))
torch.save(made.state_dict(), {out!r})
"""


def train_on(made: Any, optimizer: Optimizer, generator: torch.Generator, steps: range) -> None:
    """Take steps on fixed data, and move the masks after every third."""
    schedule = masks.cosine(0.5, steps=18)
    for step in steps:
        inputs = torch.randn(4, 6, generator=torch.Generator(torch.get_default_device()).manual_seed(step))
        optimizer.zero_grad()
        with dense_gradients(made, "[02].weight") as gradients:
            made(inputs).square().sum().backward()
        optimizer.step()
        if step % 3 == 0:
            rules: dict[str, Any] = {
                "0.weight": masks.rigl(schedule(step), gradients),
                "2.weight": masks.evolutionary(schedule(step), generator=generator),
            }
            remask(made, rules, optimizer=optimizer)
            remask(made, {"0.weight": masks.magnitude(density=(13 - step // 3) / 36)}, optimizer=optimizer)


def test_training_resumes_exactly_in_a_fresh_process_from_the_first_mask(tmp_path: Path) -> None:
    made = model()
    first = sparse(made).mask
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(3)
    train_on(made, optimizer, generator, range(10))
    assert not torch.equal(sparse(made).mask, first)
    saved = {"model": made.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
    torch.save(saved, tmp_path / "middle.pt")
    names = {
        "root": str(Path(__file__).parents[2]),
        "path": str(tmp_path / "middle.pt"),
        "out": str(tmp_path / "end.pt"),
    }
    torch.manual_seed(0)
    seeded = "import torch; torch.manual_seed(0)\n" + RESUME.format(**names)
    done = subprocess.run([sys.executable, "-c", seeded], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    train_on(made, optimizer, generator, range(10, 20))
    resumed = torch.load(tmp_path / "end.pt", weights_only=True)
    torch.testing.assert_close(resumed, made.state_dict(), rtol=0, atol=0)


def test_the_product_follows_the_number_of_entries() -> None:
    layer: Any = register(nn.Linear(700, 700), {"weight": MaskedSparse(masks.random(density=0.5))})
    assert explain(layer).product != "csr"
    remask(layer, {"weight": masks.magnitude(density=0.01)}, optimizer=None)
    assert stored(nn.Sequential(layer)).numel() == 4900
    torch.testing.assert_close(
        layer(torch.ones(2, 700)),
        nn.functional.linear(torch.ones(2, 700), layer.weight, layer.bias),
        rtol=1e-4,
        atol=1e-5,
    )
    assert explain(layer) == explain(
        register(nn.Linear(700, 700), {"weight": MaskedSparse(masks.magnitude(density=0.01))})
    )


def test_a_diagonal_has_no_mask() -> None:
    made = register(nn.Sequential(nn.Linear(3, 3)), {"0.weight": Diagonal()})
    with pytest.raises(ValueError, match=r"Got '0.weight', constrained, but without a mask"):
        remask(made, {"*.weight": masks.random(density=0.5)}, optimizer=None)


def test_a_saved_state_dict_has_the_new_mask() -> None:
    made = model()
    remask(made, {"*": masks.magnitude(density=0.1)}, optimizer=None)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    fresh = model()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(sparse(fresh).mask, sparse(made).mask)
