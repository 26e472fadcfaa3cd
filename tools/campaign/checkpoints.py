"""Operations on plain and constrained checkpoints: converting, and saving to a file."""

from __future__ import annotations

import copy
import io
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from parametrizations import plain_state_dict, register
from tools.campaign.bits import same
from tools.campaign.constraints import Constraint, make
from tools.campaign.formulas import Step
from tools.campaign.session import Session, Skipped
from tools.campaign.values import weight_for

__all__ = ["load_into_another", "load_plain", "plain_checkpoint"]


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def plain_checkpoint(session: Session, random: Random) -> None:
    """Load `plain_state_dict` of the model or of its checkpoint into the plain model."""
    given = random.random() < 0.5
    session.note(f"plain_state_dict(model{', model.state_dict()' if given else ''})")
    with session.unchanged():
        plain = plain_state_dict(session.model, *([through_a_file(session.model.state_dict())] if given else []))
    wanted = list(session.reference.plain.state_dict())
    assert list(plain) == wanted if session.ordered else sorted(plain) == sorted(wanted), f"the order is {list(plain)}"
    assert not any(tensor.requires_grad for tensor in plain.values())
    model: nn.Module = copy.deepcopy(session.reference.plain)
    model.load_state_dict(through_a_file(plain))
    for name, parameter in model.named_parameters():
        assert same(parameter, session.weight(name)), f"{name} is another weight in the plain checkpoint"


def load_plain(session: Session, random: Random) -> None:
    """Load a plain checkpoint into the constrained model; only weights outside the set are refused."""
    cells = session.reference.cells
    drawn = {name: weight_for(cell, random) for name, cell in cells.items()}
    names = list(session.reference.plain.state_dict(keep_vars=True).items())
    first = {id(tensor): name for name, tensor in session.reference.plain.named_parameters()}
    plain = {name: drawn[first[id(tensor)]][0].clone() for name, tensor in names}
    refused = [name for name, (weight, _) in drawn.items() if not cells[name].take(weight)]
    words = {name: word for name, (_, word) in drawn.items()}
    session.note(f"model.load_state_dict({words})" + (f", which refuses {refused}" if refused else ""))
    session.model.zero_grad()
    if not refused:
        session.model.load_state_dict(through_a_file(plain))
    else:
        with pytest.raises(RuntimeError, match=r"While loading the plain .* stays as it was"):
            session.model.load_state_dict(through_a_file(plain))


def load_into_another(session: Session, _: Random) -> None:
    """Load a constrained checkpoint from a file into a model with other weights and masks."""
    other = copy.deepcopy(session.reference.plain)
    rules: dict[str, list[Constraint]] = {}
    for name in session.constrained():
        cell = session.reference.cells[name]
        rules[name] = [_alike(step, _mask(cell.steps)) for step in cell.steps]
    session.note(f"other = register(plain, {rules}); other.load_state_dict(model.state_dict()); model = other")
    for name, cell in session.reference.cells.items():
        other.get_parameter(name).requires_grad_(cell.x.requires_grad)
    try:
        register(other, {name: [make(one) for one in plan] for name, plan in rules.items()})
    except ValueError as error:
        # The drawn mask keeps the diagonal alone, and ZeroDiagonal follows; or it keeps signed entries that later
        # constraints need otherwise, which the first mask had dropped.
        kinds = [[step.kind for step in cell.steps] for cell in session.reference.cells.values()]
        if "0 in every entry" not in str(error) and not any("Signed" in before[:-1] for before in kinds):
            raise
        raise Skipped from error
    with session.unchanged():
        saved = through_a_file(session.model.state_dict())
        other.load_state_dict(saved)
    session.leave_alone(session.model)
    session.model = other
    session.ordered = True
    session.forget_optimizer()


def _mask(steps: list[Step]) -> str:
    """Another mask. It keeps a diagonal that must be negative."""
    for step in steps:
        if step.kind == "NegExpDiagonal":
            rows, columns = step.shape
            return f"torch.eye({rows // step.blocks}, {columns}).repeat({step.blocks}, 1).bool()"
    return "masks.random(density=0.3)"


def _alike(step: Step, mask: str) -> Constraint:
    """A constraint of the same kind with another mask, or with other signs."""
    options = ['on_infeasible="project"' if step.projects else 'on_infeasible="raise"']
    options += [f"blocks={step.blocks}"] if step.blocks > 1 else []
    options += [f'map="{step.map}"'] if step.kind == "Signed" else []
    first = {"MaskedSparse": [mask], "Signed": [step.again]}.get(step.kind, [])
    return Constraint(step.kind, f"{step.kind}({', '.join(first + options)})", step.projects)
