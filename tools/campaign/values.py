"""Operations that change the stored tensors: assigning, converting, initialising."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor, nn

from tools.campaign.formulas import ROUNDS
from tools.campaign.models import DTYPES
from tools.campaign.reference import Cell
from tools.campaign.session import Session, Skipped

__all__ = ["assign", "convert", "empty_and_load", "freeze", "reset", "weight_for"]

LARGEST = 1e3
"""Numbers above this are not converted to half precision, where they would become infinite."""


def weight_for(cell: Cell, random: Random) -> tuple[Tensor, str]:
    """A weight to assign, inside the set or not, and its description."""
    seed = random.randrange(2**32)
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex64 if cell.x.is_complex() else torch.float32
    if random.random() < 0.5:
        x = torch.randn(cell.x.shape, generator=generator, dtype=wide).to(cell.x.dtype)
        weight = cell.weight(x).detach()
        if not weight.numel() or random.random() < 0.7:
            return weight, f"of stored values of seed {seed}"
        place, value = random.randrange(weight.numel()), random.choice([-1.0, 0.0, 1.0])
        weight = weight.contiguous().clone()
        weight.view(-1)[place] = value
        return weight, f"of stored values of seed {seed}, with {value} as entry {place}"
    weight = torch.randn(cell.weight().shape, generator=generator, dtype=wide)
    return (random.choice([1e-3, 1.0, 10.0]) * weight).to(cell.x.dtype), f"of seed {seed}"


def assign(session: Session, random: Random) -> None:
    """Assign a weight; one outside the set is refused, or projected."""
    name = session.pick(random, session.constrained())
    cell = session.reference.cells[name]
    weight, word = weight_for(cell, random)
    module, tensor = session.module(name)
    kept = weight.clone()
    if cell.take(weight):
        session.note(f"{name} = a weight {word}")
        setattr(module, tensor, weight)
        weight.fill_(7)  # the stored tensor shares no memory with it
    else:
        session.note(f"{name} = a weight {word}, which is refused")
        with session.unchanged(), pytest.raises(ValueError, match=r"needs .* Got a weight of shape .* Assign a weight"):
            setattr(module, tensor, weight)
        assert torch.equal(weight, kept)


def convert(session: Session, random: Random) -> None:
    """``model.to(dtype)``."""
    cells = session.reference.cells.values()
    kinds = [kind for kind in DTYPES.values() if kind.is_complex == session.reference.dtype.is_complex]
    largest = max((float(cell.x.detach().abs().max()) for cell in cells if cell.x.numel()), default=0.0)
    if not largest < LARGEST:
        raise Skipped
    dtype = random.choice(kinds)
    session.note(f"model.to({dtype})")
    session.model.zero_grad()
    session.model.to(dtype)
    session.reference.convert(dtype)
    session.forget_optimizer()


def reset(session: Session, random: Random) -> None:
    """``reset_parameters`` of one layer: its weights are in the set, with the scale of the plain initialisation."""
    modules = dict(session.reference.plain.named_modules())
    paths = [path for path, module in modules.items() if hasattr(module, "reset_parameters")]
    path = session.pick(random, paths)
    seed = random.randrange(2**32)
    session.note(f"torch.manual_seed({seed}); model.get_submodule({path!r}).reset_parameters()")
    torch.manual_seed(seed)
    session.model.get_submodule(path).reset_parameters()
    for name, cell in session.reference.cells.items():
        if name.rpartition(".")[0] == path:
            _require_initialised(name, session.stored(name).detach(), cell, modules[path])
            cell.x.data = session.stored(name).detach().clone()


def _require_initialised(name: str, stored: Tensor, cell: Cell, plain: nn.Module) -> None:
    assert stored.shape == cell.x.shape, f"{name} stores another shape"
    assert bool(stored.isfinite().all()), f"{name} was initialised to what is not finite"
    weight = cell.weight(stored)
    if isinstance(plain, nn.Linear) and plain.in_features and not any(s.kind in ROUNDS for s in cell.steps):
        bound = plain.in_features**-0.5 * (1 + 2 * torch.finfo(stored.dtype).eps)
        assert bool((weight.abs() <= bound * (2**0.5 if stored.is_complex() else 1)).all()), f"{name} is too large"
        alone = len(cell.steps) < 2  # zeros on the diagonal of a diagonal matrix are alike
        alike = stored.numel() > 8 and bool((stored == stored.flatten()[0]).all())
        assert not (alone and alike), f"{name} was not initialised"


def freeze(session: Session, random: Random) -> None:
    """Toggle ``requires_grad`` of one parameter, constrained or not."""
    name = session.pick(random, list(session.reference.cells))
    trained = not session.stored(name).requires_grad
    session.note(f"what {name} stores: requires_grad_({trained})")
    session.stored(name).requires_grad_(trained)
    session.reference.cells[name].x.requires_grad_(trained)
    session.model.zero_grad()


def empty_and_load(session: Session, _: Random) -> None:
    """``to_empty`` loses every value but keeps the masks; a checkpoint restores the values."""
    session.note("saved = model.state_dict(); model.to_empty(device='cpu'); model.load_state_dict(saved)")
    saved = {key: value.clone() for key, value in session.model.state_dict().items()}
    session.model.zero_grad()
    session.model.to_empty(device="cpu")
    for parameter in session.model.parameters():
        parameter.data.fill_(3)
    session.model.load_state_dict(saved)
