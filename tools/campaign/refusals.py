"""Calls that are wrong on purpose: each raises and leaves everything unchanged, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

import parametrizations as p
from tools.campaign.session import Session, Skipped

__all__ = ["refuse"]

Bad = Callable[[Session, str], Any]
"""A bad call, given a session and the name of a matrix."""


def _masked(session: Session, name: str) -> Any:
    shape = session.reference.cells[name].weight().shape
    return p.MaskedSparse(torch.ones(shape[0] + 1, shape[1], dtype=torch.bool))


def _assign(value: Callable[[torch.Tensor], Any]) -> Bad:
    def bad(session: Session, _: str) -> Any:
        constrained = session.constrained()
        if not constrained:
            raise Skipped
        module, tensor = session.module(constrained[0])
        setattr(module, tensor, value(session.weight(constrained[0]).detach()))

    return bad


def _with_nan(weight: torch.Tensor) -> torch.Tensor:
    if not weight.numel():
        raise Skipped
    broken = weight.clone()
    broken.view(-1)[0] = torch.nan
    return broken


def _damaged(session: Session, _: str) -> Any:
    """A checkpoint with masks or signs that do not fit their values."""
    state = session.model.state_dict()
    keys = [key for key in state if key.endswith("_extra_state") and state[key].numel()]
    if not keys:
        raise Skipped
    session.model.load_state_dict(state | {keys[0]: torch.cat([state[keys[0]], state[keys[0]][:1]])})


def _other_optimizer(session: Session, name: str) -> Any:
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return p.register(session.model, {name: p.ZeroDiagonal()}, optimizer=other)


BAD: dict[str, Bad] = {
    "register(model, {'nowhere': ZeroDiagonal()})": lambda s, _: p.register(s.model, {"nowhere": p.ZeroDiagonal()}),
    "register(model, {name: 'x'})": lambda s, n: p.register(s.model, {n: "x"}),  # type: ignore[dict-item]
    "register(model, {name: []})": lambda s, n: p.register(s.model, {n: []}),
    "register(model, two patterns)": lambda s, n: p.register(
        s.model, {n + "*": p.ZeroDiagonal(), "*" + n: p.ZeroDiagonal()}
    ),
    "register(model, a mask of another shape)": lambda s, n: p.register(s.model, {n: _masked(s, n)}),
    "register(model, Diagonal on top)": lambda s, n: p.register(s.model, {n: [p.ZeroDiagonal(), p.Diagonal()]}),
    "register(model, everything)": lambda s, _: p.register(s.model, {"*": _Refusing()}),
    "register(model, optimizer of another)": _other_optimizer,
    "bake(model, optimizer, not in place)": lambda s, _: p.bake(
        s.model, optimizer=torch.optim.SGD(s.model.parameters())
    ),
    "bake(3)": lambda *_: p.bake(3),  # type: ignore[type-var]
    "summary(3)": lambda *_: p.summary(3),  # type: ignore[arg-type]
    "plain_state_dict(model, 3)": lambda s, _: p.plain_state_dict(s.model, 3),  # type: ignore[arg-type]
    "layer.weight = NaN": _assign(_with_nan),
    "layer.weight = another shape": _assign(lambda weight: weight.new_zeros(weight.shape[0] + 1, *weight.shape[1:])),
    "layer.weight = integers": _assign(lambda weight: torch.zeros(weight.shape, dtype=torch.int64)),
    "layer.weight = a list": _assign(lambda weight: weight.tolist()),
    "layer.weight = sparse": _assign(lambda weight: weight.to_sparse()),
    "load_state_dict(damaged)": _damaged,
}


class _Refusing(p.Parametrization):
    """Refuses every weight."""

    def adopt(self, weight: torch.Tensor) -> None:
        raise ValueError(f"No weight, and not one of shape {tuple(weight.shape)}.")


def refuse(session: Session, random: Random) -> None:
    """Make one of the wrong calls."""
    text = random.choice(list(BAD))
    name = session.pick(random, session.matrices())
    session.note(f"{text}, with name = {name!r}")
    with session.unchanged(), pytest.raises((TypeError, ValueError, RuntimeError)):
        BAD[text](session, name)
