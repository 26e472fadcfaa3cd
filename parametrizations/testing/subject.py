"""What the laws look at, and short ways to its parts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from parametrizations.testing.requirements import Skipped

__all__ = [
    "STORED",
    "Subject",
    "dense",
    "gradient_of",
    "loss",
    "outcome_of",
    "parametrization_of",
    "set_stored",
    "stored",
    "weight_of",
    "widest",
]


STORED = "parametrizations.weight.original"


@dataclass(frozen=True)
class Subject:
    """What the laws look at: an unregistered parametrization, and a weight, ``(out, in)``, to start from."""

    parametrization: nn.Module
    weight: Tensor

    def fresh(self) -> Any:
        """A parametrization of its own, not registered."""
        return copy.deepcopy(self.parametrization)

    def plain(self, weight: Tensor | None = None) -> nn.Linear:
        """An unconstrained layer with the weight, and a bias of small different numbers."""
        weight = self.weight if weight is None else weight
        layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta", dtype=weight.dtype)
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.bias = nn.Parameter(torch.arange(weight.shape[0], device=weight.device).to(weight) / 8)
        return layer

    def layer(self, weight: Tensor | None = None) -> Any:
        """A layer whose weight has the parametrization registered."""
        return register_parametrization(self.plain(weight), "weight", self.fresh())

    def members(self) -> Iterator[Tensor]:
        """Weights in the set of every usual scale, among them the one that registering gives."""
        layer, generator = self.layer(), torch.Generator().manual_seed(2)
        yield dense(layer)
        for scale in (0.01, 1.0, 30.0):
            drawn = torch.randn(stored(layer).shape, generator=generator, dtype=torch.float64, device="cpu")
            set_stored(layer, scale * drawn.to(self.weight))
            yield dense(layer)

    def outsider(self) -> Tensor:
        """A weight outside the set; skips the law where none is found."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(self.weight.shape, generator=generator, dtype=torch.float64, device="cpu").to(self.weight)
        contains = parametrization_of(self.layer()).contains
        for candidate in (self.weight.detach().clone(), drawn, -drawn, drawn + 1):
            if not contains(candidate):
                return candidate
        raise Skipped("no weight outside the set was found")

    def inputs(self, *batch: int) -> Tensor:
        """Inputs ``(*batch, in)`` in the weight's dtype."""
        generator = torch.Generator().manual_seed(1)
        shape = (*batch, self.weight.shape[1])
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(self.weight)


def parametrization_of(layer: Any) -> Any:
    """The parametrization of a layer's weight."""
    return layer.parametrizations.weight[0]


def weight_of(layer: Any) -> Callable[[Tensor], Tensor]:
    """From what a layer stores to its weight, through every one of its parametrizations."""

    def weight(x: Tensor) -> Tensor:
        for step in layer.parametrizations.weight:
            x = step(x)
        return x

    return weight


def stored(layer: Any) -> Tensor:
    """What a layer stores for its weight."""
    x = layer.parametrizations.weight.original
    assert isinstance(x, Tensor)
    return x


def dense(layer: Any) -> Tensor:
    """A copy of a layer's weight."""
    weight = layer.weight.detach().clone()
    assert isinstance(weight, Tensor)
    return weight


def loss(output: Tensor) -> Tensor:
    """A number with a gradient for every entry of an output, real or complex."""
    return (output.abs() ** 2).sum()


def set_stored(layer: Any, x: Tensor) -> None:
    """Write into what a layer stores."""
    with torch.no_grad():
        stored(layer).copy_(x)


def widest(subject: Subject) -> torch.dtype:
    """The dtype in which gradients are compared with differences."""
    return torch.complex128 if subject.weight.is_complex() else torch.float64


def gradient_of(layer: Any, inputs: Tensor, model: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The gradient of what a layer stores, for a loss of its output or of another call's."""
    layer.zero_grad()
    loss((layer if model is None else model)(inputs)).backward()  # type: ignore[no-untyped-call]
    gradient = stored(layer).grad
    assert gradient is not None
    return gradient.clone()


def outcome_of(function: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """A function's value and its gradient for every leaf."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    output = function(*leaves)
    return [output, *torch.autograd.grad(loss(output), leaves, materialize_grads=True)]
