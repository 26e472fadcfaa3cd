"""Operations that train: forward, backward, and optimizer steps, with a twin of each optimizer on the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from tools.campaign.bits import near, same
from tools.campaign.reference import double
from tools.campaign.rounding import measured
from tools.campaign.session import Session

__all__ = ["drop_state", "train"]

OPTIMIZERS: dict[str, Callable[[Any, Any], Optimizer]] = {
    "SGD": lambda tensors, kind: SGD(tensors, lr=0.01, momentum=0.9, weight_decay=0.01, **kind),
    "SGD without momentum": lambda tensors, kind: SGD(tensors, lr=0.01, **kind),
    # The usual eps, 1e-8, is 0 in float16.
    "Adam": lambda tensors, kind: Adam(tensors, lr=0.01, eps=1e-4, **kind),
    "AdamW": lambda tensors, kind: AdamW(tensors, lr=0.01, eps=1e-4, weight_decay=0.1, **kind),
}
KINDS = ({"foreach": False}, {"foreach": True}, {"fused": True})


def train(session: Session, random: Random) -> None:
    """One to three steps: gradients are as accurate as dense ones, steps are equal bit for bit."""
    if session.optimizer is None or random.random() < 0.2:
        _make_optimizers(session, random)
    steps = random.randint(1, 3)
    session.note(f"{steps} training steps")
    for _ in range(steps):
        if not _step(session, random):
            return


def _make_optimizers(session: Session, random: Random) -> None:
    name = random.choice(list(OPTIMIZERS))
    kind = random.choice(KINDS if _can_fuse(name, session.reference.dtype) else KINDS[:2])
    session.note(f"optimizer = {name}(model.parameters(), **{kind})")
    names = list(session.reference.cells)
    session.optimizer = OPTIMIZERS[name]([session.stored(name) for name in names], kind)
    session.twin = OPTIMIZERS[name]([session.reference.cells[name].x for name in names], kind)


def _can_fuse(name: str, dtype: torch.dtype) -> bool:
    """Whether fused works: PyTorch's fused SGD starts momentum in half precision from uninitialised memory."""
    return not dtype.is_complex and (name != "SGD" or dtype.itemsize > 2)


def _step(session: Session, random: Random) -> bool:
    """Take one step. If the loss or a gradient is not finite, take none and return False."""
    assert session.optimizer is not None
    assert session.twin is not None
    cells = session.reference.cells
    input = session.input(random)
    weights = torch.randn(input.shape, generator=torch.Generator().manual_seed(random.randrange(2**32)))
    session.optimizer.zero_grad()
    output = session.model(input)
    if not output.requires_grad:
        return False
    _loss(output, weights).backward()  # type: ignore[no-untyped-call]
    actual = {name: session.stored(name).grad for name in cells}
    plain = _gradients(session, weights, input, session.reference.stored())
    exact = _gradients(session, weights, double(input), session.reference.exact())
    if not all(bool(gradient.isfinite().all()) for gradient in plain.values()):
        session.model.zero_grad()
        return False
    assert [name for name, gradient in actual.items() if gradient is not None] == list(plain), "other gradients"
    off: dict[str, float] = {}
    for name, gradient in actual.items():
        if gradient is not None and not near(gradient, plain[name], exact[name]):
            off = off or measured(partial(_gradients, session, weights), input, session.reference.stored())
            assert near(gradient, plain[name], exact[name], off[name]), f"{name} has another gradient"
        cells[name].x.grad = None if gradient is None else gradient.clone()
    session.optimizer.step()
    session.twin.step()
    _require_same_state(session)
    return True


def _loss(output: Tensor, weights: Tensor) -> Tensor:
    product = output * weights.to(output.dtype)
    return product.real.sum() if product.is_complex() else product.sum()


def _gradients(session: Session, weights: Tensor, input: Tensor, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    loss = _loss(session.reference.output(input, stored), weights)
    trained = {name: x for name, x in stored.items() if x.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(trained, gradients, strict=True))


def _require_same_state(session: Session) -> None:
    """The optimizer and its twin have equal state for each parameter."""
    assert session.optimizer is not None
    assert session.twin is not None
    for name, cell in session.reference.cells.items():
        one, other = session.optimizer.state[session.stored(name)], session.twin.state[cell.x]
        assert one.keys() == other.keys(), f"the optimizer holds {list(one)} for {name}"
        for key, value in other.items():
            assert value is None or same(torch.as_tensor(one[key]), torch.as_tensor(value)), f"{key} of {name}"


def drop_state(session: Session, names: list[str], *, kept: bool) -> None:
    """Drop the changed parameters' state in the twin, or recreate both optimizers at the next step."""
    if not kept or session.twin is None:
        session.forget_optimizer()
        return
    for name in names:
        x = session.reference.cells[name].x
        if "momentum_buffer" in session.twin.state.pop(x, {}) and session.twin.defaults.get("fused"):
            session.twin.state[x] = {"momentum_buffer": torch.zeros_like(x)}
