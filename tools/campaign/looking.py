"""Operations that read or run a model without changing it."""

from __future__ import annotations

from random import Random

import torch
from torch.nn.utils import parametrize

from parametrizations import explain, fuse, summary
from tools.campaign.bits import near, same
from tools.campaign.reference import double
from tools.campaign.session import Session, Skipped

__all__ = ["in_autocast", "in_cache", "in_inference_mode", "look", "modes", "with_other_values"]

PRODUCTS = {"dense", "elementwise", "replaced-diagonal", "strips", "csr"}


def look(session: Session, _: Random) -> None:
    """`summary`, `explain`, ``repr`` and `fuse` change no number."""
    session.note("summary(model); explain(layer); repr(model); fuse(model)")
    with session.unchanged():
        rows = {row.name: row for row in summary(session.model).rows}
        assert all(explain(module).product in PRODUCTS for module in session.model.modules())
        repr(session.model)
    fuse(session.model)
    assert sorted(rows) == sorted(session.constrained()), f"the summary has {list(rows)}"
    for name in session.constrained():
        cell, row = session.reference.cells[name], rows[name]
        assert row.constraint == ", then ".join(step.kind for step in cell.steps)
        assert (row.shape, row.stored) == (tuple(cell.weight().shape), cell.x.numel())
        weight = session.weight(name).detach()
        assert row.holds == (not any(step.breaks(weight) for step in cell.steps)), f"{name} holds: {row.holds}"


def in_cache(session: Session, random: Random) -> None:
    """``parametrize.cached()``: the same weights and output."""
    session.note("with parametrize.cached(): model(input)")
    input = session.input(random)
    with torch.no_grad(), session.unchanged():
        alone = []
        for one in session.bystanders:  # in a separate block, since a loop may use another product
            with parametrize.cached():
                alone.append(one.model(one.input))
        with parametrize.cached():
            session.check()
            first, again = session.model(input), session.model(input)
            for name in session.constrained():
                assert session.weight(name) is session.weight(name), f"{name} is built twice inside cached()"
            for one, output in zip(session.bystanders, alone, strict=True):
                assert same(one.model(one.input), output), "another model is answered from the cache"
    session.require_output(first, input, "another output inside cached()")
    assert same(first, again)


def with_other_values(session: Session, random: Random) -> None:
    """`torch.func.functional_call` with other stored values."""
    if any(block.kind == "twice" for block in session.plan.blocks):
        raise Skipped  # PyTorch leaves the given tensor in a module with two names, plain or not
    session.note("torch.func.functional_call(model, other values, input)")
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    names = {id(tensor): name for name, tensor in session.model.named_parameters()}
    values = {name: _like(cell.x, generator) for name, cell in session.reference.cells.items()}
    given = {names[id(session.stored(name))]: value for name, value in values.items()}
    input = session.input(random)
    with torch.no_grad(), session.unchanged():
        actual = torch.func.functional_call(session.model, given, (input,))
    session.require_output(actual, input, "another output of functional_call", values)


def _like(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    wide = torch.complex64 if x.is_complex() else torch.float32
    return torch.randn(x.shape, generator=generator, dtype=wide).to(x.dtype)


def in_autocast(session: Session, random: Random) -> None:
    """bfloat16 autocast: the output has the dtype and the accuracy of the plain layers."""
    if session.reference.dtype == torch.float16:
        raise Skipped  # PyTorch's layer_norm does not mix bfloat16 and float16
    session.note("with torch.autocast('cpu', torch.bfloat16): model(input)")
    input = session.input(random)
    with torch.no_grad(), session.unchanged():
        exact = session.reference.output(double(input), session.reference.exact())
        with torch.autocast("cpu", torch.bfloat16):
            actual, plain = session.model(input), session.reference.output(input)
    assert actual.dtype == plain.dtype, f"autocast gives {actual.dtype} instead of {plain.dtype}"
    if plain.dtype == torch.bfloat16:
        assert near(actual, plain, exact), "another output in autocast"


def in_inference_mode(session: Session, random: Random) -> None:
    """Output, summary and plain checkpoint in inference mode."""
    session.note("with torch.inference_mode(): model(input)")
    input = session.input(random)
    with session.unchanged():
        with torch.no_grad():
            expected = session.model(input)
        with torch.inference_mode():
            assert same(session.model(input), expected), "another output in inference mode"
            summary(session.model)


def modes(session: Session, random: Random) -> None:
    """Switch ``eval``, ``train`` and ``requires_grad_``, then restore them."""
    session.note("model.eval(); model(input); model.train()")
    input = session.input(random)
    with torch.no_grad():
        session.model.eval()
        actual = session.model(input)
        session.model.train()
    session.require_output(actual, input, "another output when evaluating")
