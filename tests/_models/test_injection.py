"""A failure at every line of the calls other than `register` and `bake`, which are tested in their own files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    bake,
    explain,
    fuse,
    masks,
    plain_state_dict,
    register,
    summary,
)
from tools.injection import Injected, everything, fail_at, failures

CHAIN: list[nn.Module] = [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]
RULES: dict[str, list[nn.Module]] = {
    "chain": CHAIN,
    "Diagonal": [Diagonal()],
    "MaskedSparse": [MaskedSparse(masks.banded(1, 1))],
    "ZeroDiagonal": [ZeroDiagonal()],
}
every = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def model(rule: list[nn.Module] = CHAIN) -> Any:
    return register(nn.Sequential(nn.Linear(3, 3)), {"0.weight": rule})


LOOKS: dict[str, Callable[[Any], object]] = {
    "plain_state_dict": plain_state_dict,
    "plain_state_dict of a checkpoint": lambda model: plain_state_dict(model, model.state_dict()),
    "summary": lambda model: repr(summary(model)),
    "explain": lambda model: explain(model[0]),
    "bake": bake,
    "state_dict": lambda model: model.state_dict(),
    "forward": lambda model: model(torch.ones(2, 3)),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_failing_read_only_call_changes_nothing(look: Callable[[Any], object]) -> None:
    made = model()
    before = everything(made)
    for step in failures(lambda: look(made)):
        assert everything(made) == before, f"step {step}"


def test_a_layer_is_fused_or_unchanged() -> None:
    def registered() -> Any:
        return register_parametrization(nn.Linear(3, 3), "weight", ZeroDiagonal())

    kept = fuse(registered())  # so is the class that both share
    layers = [registered() for _ in range(fail_at(0, partial(fuse, registered())))]
    assert len(layers) > 5
    for step, layer in enumerate(layers, start=1):
        before = everything(layer)
        with pytest.raises(Injected):
            fail_at(step, partial(fuse, layer))
        assert everything(layer) == before or type(layer) is type(kept), f"step {step}"
        assert type(fuse(layer)) is type(kept), f"step {step}"


def structure(model: nn.Module) -> list[object]:
    """Classes, attributes and hooks, and the shape of each tensor."""
    found: list[object] = [(name, tuple(tensor.shape)) for name, tensor in model.named_parameters()]
    for name, module in model.named_modules():
        found += [name, type(module), list(vars(module))]
        found += [len(value) for value in vars(module).values() if isinstance(value, dict | list | set)]
    return found


@every
def test_a_plain_weight_is_loaded_or_unchanged(rule: list[nn.Module]) -> None:
    made, start = model(rule), model(rule)
    plain = plain_state_dict(model(rule))
    new = plain["0.weight"]
    made.load_state_dict(plain_state_dict(start))
    before, old = structure(made), made[0].weight.detach()
    for step in failures(lambda: made.load_state_dict(plain)):
        assert any(torch.allclose(made[0].weight, weight) for weight in (old, new)), f"step {step}"
        made.load_state_dict(start.state_dict())
        assert structure(made) == before, f"step {step}"
    torch.testing.assert_close(made[0].weight, new)


@every
def test_a_failed_initialisation_leaves_the_layer_whole(rule: list[nn.Module]) -> None:
    made = model(rule)
    before = structure(made)
    for step in failures(made[0].reset_parameters):
        assert structure(made) == before, f"step {step}"
        assert summary(made).rows[0].holds, f"step {step}"
    made(torch.ones(1, 3)).sum().backward()
