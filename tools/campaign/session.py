"""One model in use, with its reference, its optimizers, and models that must stay unchanged."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

from tools.campaign.bits import everything, held, near, same
from tools.campaign.formulas import ROUNDS
from tools.campaign.models import Plan, build
from tools.campaign.reference import Cell, Reference, double
from tools.campaign.rounding import measured

__all__ = ["Session", "Skipped"]


class Skipped(Exception):
    """The operation does not apply to the current model."""


@dataclass
class Bystander:
    """A model that must stay unchanged, with its bits and its output."""

    model: nn.Module
    bits: list[Any]
    input: Tensor
    output: Tensor


@dataclass
class Session:
    """A model and everything it is checked against."""

    plan: Plan
    model: Any
    reference: Reference
    optimizer: Optimizer | None = None
    twin: Optimizer | None = None
    bystanders: list[Bystander] = field(default_factory=list)
    ordered: bool = True
    """Whether the parameters stand in their original order: PyTorch's removal moves them."""
    log: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan) -> Session:
        model = build(plan)
        return cls(plan, model, Reference(copy.deepcopy(model)), log=[f"model = build({plan})"])

    def note(self, line: str) -> None:
        self.log.append(line)

    def input(self, random: Random, rows: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(random.randrange(2**32))
        shape = (random.choice([0, 1, 2, 5]) if rows is None else rows, self.plan.width)
        wide = torch.complex64 if self.reference.dtype.is_complex else torch.float32
        return torch.randn(shape, generator=generator, dtype=wide).to(self.reference.dtype)

    def module(self, name: str) -> tuple[Any, str]:
        """The module that owns a parameter, and the parameter's local name."""
        path, _, tensor = name.rpartition(".")
        return self.model.get_submodule(path), tensor

    def weight(self, name: str) -> Tensor:
        module, tensor = self.module(name)
        weight: Tensor = getattr(module, tensor)
        return weight

    def chain(self, name: str) -> ParametrizationList | None:
        module, tensor = self.module(name)
        lists = module._modules.get("parametrizations")
        return lists[tensor] if lists is not None and tensor in lists else None

    def stored(self, name: str) -> Tensor:
        """The trained tensor."""
        chain = self.chain(name)
        return self.weight(name) if chain is None else chain.original

    def constrained(self, kinds: tuple[str, ...] = ()) -> list[str]:
        """The names of the constrained parameters, or of those with one of the given kinds."""
        cells = self.reference.cells.items()
        return [name for name, cell in cells if cell.steps and (not kinds or cell.steps[0].kind in kinds)]

    def matrices(self) -> list[str]:
        return [name for name, parameter in self.reference.plain.named_parameters() if parameter.dim() == 2]

    def pick(self, random: Random, names: list[str]) -> str:
        if not names:
            raise Skipped
        return random.choice(names)

    def forget_optimizer(self) -> None:
        self.optimizer = self.twin = None

    def leave_alone(self, model: nn.Module) -> None:
        """Keep a model that must stay unchanged from now on; at most two are kept."""
        input = self.input(Random(0), rows=3)
        with torch.no_grad():
            self.bystanders = [*self.bystanders[-1:], Bystander(model, everything(model), input, model(input))]

    @contextmanager
    def unchanged(self, random_numbers: bool = True) -> Iterator[None]:
        """Check that the block changes neither the model nor its optimizer, and draws no random number."""
        before, numbers = (everything(self.model), held(self.optimizer)), torch.get_rng_state()
        yield
        assert (everything(self.model), held(self.optimizer)) == before, "something has changed"
        assert not random_numbers or torch.equal(torch.get_rng_state(), numbers), "random numbers were drawn"

    @contextmanager
    def unchanged_if_refused(self, kind: type[Exception], message: str, *, allowed: bool) -> Iterator[None]:
        """If a call in the block is refused, check that it may be and changes nothing; then end the operation."""
        before, numbers = (everything(self.model), held(self.optimizer)), torch.get_rng_state()
        try:
            yield
        except kind as error:
            if not allowed or message not in str(error):
                raise
            assert (everything(self.model), held(self.optimizer)) == before, "a refused call has changed something"
            assert torch.equal(torch.get_rng_state(), numbers), "a refused call has drawn random numbers"
            raise Skipped from error

    def check(self) -> None:
        """Check that the model equals the reference, and that the other models are unchanged."""
        for name, cell in self.reference.cells.items():
            self._check_cell(name, cell)
        self._check_output()
        for one in self.bystanders:
            assert everything(one.model) == one.bits, "another model has changed"

    def check_bystanders(self) -> None:
        with torch.no_grad():
            for one in self.bystanders:
                assert same(one.model(one.input), one.output), "another model's output has changed"

    def require_output(
        self, actual: Tensor, input: Tensor, words: str, stored: dict[str, Tensor] | None = None
    ) -> None:
        """Check that an output is as accurate as dense products with the stored or the given values."""

        def run(input: Tensor, stored: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"output": self.reference.output(input, stored)}

        stored = self.reference.stored() if stored is None else stored
        with torch.no_grad():
            plain = run(input, stored)["output"]
            exact = run(double(input), {name: double(x) for name, x in stored.items()})["output"]
            if not near(actual, plain, exact):
                assert near(actual, plain, exact, measured(run, input, stored)["output"]), words

    def _check_cell(self, name: str, cell: Cell) -> None:
        stored, chain = self.stored(name), self.chain(name)
        kinds = [] if chain is None else [type(chain.get_submodule(str(place))).__name__ for place in range(len(chain))]
        assert kinds == [step.kind for step in cell.steps], f"{name} has {kinds}"
        assert isinstance(stored, nn.Parameter), f"{name} stores no parameter"
        assert stored.requires_grad == cell.x.requires_grad, f"{name} has requires_grad={stored.requires_grad}"
        assert stored.is_contiguous(), f"{name} stores a view"
        if cell.rounded:
            _require_rounded(name, stored, cell.x)
            cell.x.data = stored.detach().clone()
            cell.rounded = False
        else:
            assert same(stored, cell.x), f"{name} stores something else"
        for place, step in enumerate(cell.steps):
            made: Any = None if chain is None else chain.get_submodule(str(place))
            assert step.mask is None or torch.equal(made.mask, step.mask), f"{name} has another mask"
        _require_weight(name, self.weight(name).detach(), cell)

    def _check_output(self) -> None:
        input = self.input(Random(len(self.log)), rows=3)
        with torch.no_grad():
            self.require_output(self.model(input), input, "another output")


def _require_rounded(name: str, stored: Tensor, expected: Tensor) -> None:
    """Compare stored logarithms, up to their rounding and that of their arguments."""
    assert (stored.shape, stored.dtype) == (expected.shape, expected.dtype), f"{name} stores {stored.shape}"
    apart = (stored - expected).abs()
    allowed = 8 * torch.finfo(stored.dtype).eps * (1 + expected.abs())
    assert bool((apart <= allowed).all()), f"{name} stores something {float(apart.max())} away"


def _require_weight(name: str, weight: Tensor, cell: Cell) -> None:
    expected = cell.weight().detach()
    assert (weight.shape, weight.dtype) == (expected.shape, expected.dtype), f"{name} is {weight.dtype}, {weight.shape}"
    if not any(step.kind in ROUNDS for step in cell.steps):
        assert torch.equal(weight, expected), f"{name} is another weight"
        return
    allowed = 8 * torch.finfo(weight.dtype).eps * expected.abs()
    assert bool(((weight - expected).abs() <= allowed).all()), f"{name} is another weight"
    assert not cell.steps[-1].breaks(weight), f"{name} has an entry with a wrong sign"
