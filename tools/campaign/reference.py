"""The reference model: the stored tensor and the constraints of each matrix, multiplied by PyTorch's plain layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tools.campaign.formulas import ROUNDS, Step

__all__ = ["Cell", "Reference", "double"]


@dataclass
class Cell:
    """One parameter: the stored tensor, and its constraints in the order of application."""

    x: Tensor
    steps: list[Step] = field(default_factory=list)
    rounded: bool = False
    """Whether ``x`` was computed with a logarithm since it was last compared, so that it may be off by its rounding."""

    def weight(self, x: Tensor | None = None) -> Tensor:
        value, dtype = self.x if x is None else x, self.x.dtype
        for step in self.steps:
            value = step.weight(value, dtype)
        return value

    def adopt(self, steps: Sequence[Step]) -> None:
        """Add constraints on top; the current weight is mapped through all the inverses."""
        weight = self.weight().detach()
        self.steps = [*self.steps, *steps]
        for step in reversed(self.steps):
            weight = step.invert(step.project(weight))
        self.store(weight)

    def take(self, weight: Tensor) -> bool:
        """Assign a weight. If a constraint refuses it, change nothing and return False."""
        for step in reversed(self.steps):
            weight = step.project(weight) if step.projects else weight
            if step.breaks(weight):
                return False
            weight = step.invert(weight)
        self.store(weight)
        return True

    def release(self, weight: Tensor) -> None:
        """Remove the constraints: store the weight itself."""
        self.steps = []
        self.store(weight)

    def store(self, x: Tensor) -> None:
        """Replace the data of the leaf; the model's parameters keep their identity, too."""
        self.x.grad = None
        self.x.data = x.detach().clone()
        self.rounded = any(step.kind in ROUNDS for step in self.steps)


class Reference:
    """A plain twin of the constrained model.

    Args:
        plain: A copy of the model before registration; only its layers are used.
    """

    def __init__(self, plain: nn.Module) -> None:
        self.plain = plain
        self.cells = {name: Cell(p.detach().clone().requires_grad_()) for name, p in plain.named_parameters()}

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.cells.values())).x.dtype

    def weights(self, stored: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        return {name: cell.weight(None if stored is None else stored[name]) for name, cell in self.cells.items()}

    def output(self, input: Tensor, stored: dict[str, Tensor] | None = None) -> Tensor:
        """The output of the plain layers with the dense weights."""
        with _placed(self.plain, self.weights(stored)):
            result: Tensor = self.plain(input)
        return result

    def stored(self) -> dict[str, Tensor]:
        return {name: cell.x for name, cell in self.cells.items()}

    def exact(self) -> dict[str, Tensor]:
        """The stored tensors in double precision, as leaves."""
        return {name: double(cell.x).requires_grad_(cell.x.requires_grad) for name, cell in self.cells.items()}

    def convert(self, dtype: torch.dtype) -> None:
        self.plain.to(dtype)
        for cell in self.cells.values():
            cell.x.data = cell.x.data.to(dtype)


@contextmanager
def _placed(plain: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Let the plain layers use these weights; `torch.func.functional_call` changes a module with two names."""
    places = [(*name.rpartition(".")[::2], name) for name in weights]
    own = {name: plain.get_parameter(name) for name in weights}
    _place(plain, places, weights)
    try:
        yield
    finally:
        _place(plain, places, own)


def _place(plain: nn.Module, places: list[tuple[str, str, str]], tensors: Mapping[str, Tensor]) -> None:
    for path, tensor, name in places:
        module: Any = plain.get_submodule(path)
        module._parameters[tensor] = tensors[name]
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [module._parameters[own] for own in module._flat_weights_names]


def double(tensor: Tensor) -> Tensor:
    """A copy in double precision, real or complex."""
    kind: Any = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to(kind, copy=True)
