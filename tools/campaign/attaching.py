"""Operations that attach and remove constraints."""

from __future__ import annotations

import copy
import io
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from parametrizations import bake, fuse, register
from tools.campaign.bits import same
from tools.campaign.constraints import Constraint, chain, make
from tools.campaign.formulas import Step
from tools.campaign.session import Session, Skipped
from tools.campaign.training import drop_state, train

__all__ = [
    "attach_with_torch",
    "bake_copy",
    "bake_in_place",
    "register_any",
    "register_some",
    "remove_with_torch",
    "text_of",
]


def text_of(constraints: list[Constraint]) -> str:
    texts = [constraint.text for constraint in constraints]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def draw(session: Session, random: Random, name: str) -> list[Constraint]:
    """Constraints to register on top of the present ones, at most one per class."""
    cell = session.reference.cells[name]
    there = [step.kind for step in cell.steps]
    constraints = chain(random, cell.weight().shape, there)
    if not constraints:
        raise Skipped
    return constraints


def follow(session: Session, name: str, constraints: list[Constraint]) -> None:
    """Attach the same constraints to the reference."""
    cell, weight = session.reference.cells[name], session.reference.cells[name].weight().detach()
    made: Any = session.chain(name)
    steps, added = list(made)[-len(constraints) :], list[Step]()
    for constraint, step in zip(constraints, steps, strict=True):
        added = [*added, constraint.step(step, weight, [*cell.steps, *added])]
    cell.adopt(added)


Kinds = list[tuple[str, int, bool]]
"""The constraints of a weight: kinds, the blocks of diagonal ones, and whether the diagonals are all of the weight."""


def kinds(session: Session, plans: dict[str, list[Constraint]]) -> list[Kinds]:
    """The constraints that each weight with entries would have."""
    cells = {name: session.reference.cells[name] for name in plans if session.reference.cells[name].weight().numel()}
    found = []
    for name, cell in cells.items():
        there = [(step.kind, step.blocks) for step in cell.steps] + [(one.kind, one.blocks) for one in plans[name]]
        shape = tuple(cell.weight().shape)
        found.append([(kind, blocks, shape == (blocks, 1)) for kind, blocks in there])
    return found


def have_to_clash(there: Kinds) -> bool:
    names, blocks = {kind for kind, *_ in there}, {blocks for kind, blocks, _ in there if kind != "Signed"}
    empty = names - {"Signed"} == {"Diagonal", "ZeroDiagonal"} and len(blocks) == 1
    return {"ZeroDiagonal", "NegExpDiagonal"} <= names or empty


def may_clash(there: Kinds) -> bool:
    """Whether a constraint may hide entries that another one needs.

    A mask may hide a diagonal that must be negative, or keep only the diagonal. Signs need all entries that constraints
    before them keep, and map a negative diagonal once more.
    """
    names = [kind for kind, *_ in there]
    nothing = len(there) > 1 and any(kind == "ZeroDiagonal" and is_all for kind, _, is_all in there)
    first, later = {"Diagonal", "MaskedSparse"}, {"ZeroDiagonal", "NegExpDiagonal"}
    signed = "Signed" in names and ("NegExpDiagonal" in names or names[-1] != "Signed")
    return nothing or signed or have_to_clash(there) or not (first.isdisjoint(names) or later.isdisjoint(names))


def register_some(session: Session, random: Random) -> None:
    """`register` on one to five matrices, with or without the optimizer, and often take a step."""
    _register(session, random, session.matrices())


def register_any(session: Session, random: Random) -> None:
    """The same on parameters of any shape: convolutions, scales and biases, too."""
    _register(session, random, list(session.reference.cells))


def _register(session: Session, random: Random, among: list[str]) -> None:
    names = random.sample(among, random.randint(1, min(5, len(among))))
    plans = {name: draw(session, random, name) for name in names}
    keep = session.optimizer is not None and random.random() < 0.7
    texts = ", ".join(f'"{name}": {text_of(plan)}' for name, plan in plans.items())
    session.note(f"register(model, {{{texts}}}, optimizer={'optimizer' if keep else None})")
    made = {name: [make(one) for one in plan] for name, plan in plans.items()}
    with session.unchanged_if_refused(ValueError, "hold together", allowed=any(map(may_clash, kinds(session, plans)))):
        result = register(session.model, made, optimizer=session.optimizer if keep else None)
        assert result is session.model
        assert not any(map(have_to_clash, kinds(session, plans))), "what cannot hold together was attached"
    for name, plan in plans.items():
        follow(session, name, plan)
    drop_state(session, names, kept=keep)
    if random.random() < 0.5:
        session.check()
        train(session, random)


def attach_with_torch(session: Session, random: Random) -> None:
    """PyTorch's own registration on a linear layer, and `fuse`."""
    plain = session.reference.plain
    linear = [f"{path}.weight" for path, module in plain.named_modules() if isinstance(module, nn.Linear)]
    name = session.pick(random, [name for name in linear if not session.reference.cells[name].steps])
    (constraint, *_) = plan = draw(session, random, name)[:1]
    session.note(f'register_parametrization({name[:-7]}, "weight", {constraint.text}); fuse(model)')
    module, tensor = session.module(name)
    session.model.zero_grad()
    register_parametrization(module, tensor, make(constraint))
    assert fuse(session.model) is session.model
    follow(session, name, plan)
    session.forget_optimizer()


def bake_copy(session: Session, random: Random) -> None:
    """`bake` a copy; the model stays unchanged. Sometimes continue with the copy."""
    session.note("plain = bake(model)")
    with session.unchanged():
        plain = bake(session.model)
    require_plain(session, plain)
    if random.random() < 0.3:
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        buffer.seek(0)
        require_plain(session, torch.load(buffer, weights_only=False))
    if random.random() < 0.3:
        session.note("model = plain")
        session.leave_alone(session.model)
        session.model = plain
        session.forget_optimizer()
        for name in session.constrained():
            session.reference.cells[name].release(session.weight(name))


def require_plain(session: Session, plain: nn.Module) -> None:
    """Check that the plain model has its original names, classes, weights, order and output."""
    expected = session.reference.plain
    assert [type(module) for module in plain.modules()] == [type(module) for module in expected.modules()]
    names, wanted = list(plain.state_dict()), list(expected.state_dict())
    assert names == wanted if session.ordered else sorted(names) == sorted(wanted), f"the order is {names}"
    for name, parameter in plain.named_parameters():
        assert same(parameter, session.weight(name)), f"{name} was baked to another weight"
        assert not session.reference.cells[name].steps or parameter.grad is None, f"{name} has an old gradient"
    input = session.input(Random(0), rows=3)
    with torch.no_grad():
        session.require_output(plain(input), input, "another output after baking")


def bake_in_place(session: Session, random: Random) -> None:
    """`bake` of the model itself: each parameter keeps its identity."""
    names = session.constrained()
    keep = session.optimizer is not None and bool(names) and random.random() < 0.7
    session.note(f"bake(model, inplace=True, optimizer={'optimizer' if keep else None})")
    stored = {name: session.stored(name) for name in session.reference.cells}
    weights = {name: session.weight(name).detach().clone() for name in names}
    assert bake(session.model, inplace=True, optimizer=session.optimizer if keep else None) is session.model
    for name in names:
        session.reference.cells[name].release(weights[name])
    for name, tensor in stored.items():
        assert session.weight(name) is tensor, f"{name} is another parameter"
    drop_state(session, names, kept=keep)
    require_plain(session, session.model)


def remove_with_torch(session: Session, random: Random) -> None:
    """PyTorch's `remove_parametrizations`, which keeps the computed weight."""
    name = session.pick(random, session.constrained())
    session.note(f"remove_parametrizations({name}, leave_parametrized=True)")
    weight = session.weight(name).detach().clone()
    module, tensor = session.module(name)
    session.model.zero_grad()
    remove_parametrizations(module, tensor)
    session.reference.cells[name].release(weight)
    session.ordered = False
    session.forget_optimizer()


def deep_copy(session: Session, random: Random) -> None:
    """`copy.deepcopy`: continue with the copy or the original; the other must stay unchanged."""
    swap = random.random() < 0.5
    session.note("twin = copy.deepcopy(model)" + ("; model, twin = twin, model" if swap else ""))
    session.model.zero_grad()
    try:
        with session.unchanged():
            twin = copy.deepcopy(session.model)
    except RuntimeError as error:
        if "explicitly by the user" not in str(error):  # PyTorch cannot copy a recurrent layer after a forward pass
            raise
        raise Skipped from error
    if swap:
        session.model, twin = twin, session.model
        session.forget_optimizer()
    session.leave_alone(twin)
