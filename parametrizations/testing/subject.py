"""`Subject`, the argument of every law (a test of the contract), and functions that read and write its layers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations.testing.requirements import Skipped

STORED = "parametrizations.weight.original"
MARGIN = 0.01
"""The smallest distance from kinks, far above the step of finite differences."""


@dataclass(frozen=True)
class Subject:
    """An unregistered parametrization, and a weight of any shape, to register it on."""

    parametrization: nn.Module
    weight: Tensor

    def fresh(self) -> Any:
        """An unregistered copy of the parametrization."""
        return copy.deepcopy(self.parametrization)

    def plain(self, weight: Tensor | None = None) -> Any:
        """A layer without constraints, with this or the subject's weight, and a bias of small different numbers."""
        weight = self.weight if weight is None else weight
        out_features, in_features = matrix(weight).shape
        kind = nn.Linear if weight.dim() == 2 else _Flat
        layer = kind(in_features, out_features, device="meta", dtype=weight.dtype)
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.bias = nn.Parameter(torch.arange(out_features, device=weight.device).to(weight) / 8)
        return layer

    def layer(self, weight: Tensor | None = None) -> Any:
        """A layer with the parametrization registered on its weight."""
        return register_parametrization(self.plain(weight), "weight", self.fresh())

    def precise_layer(self, weight: Tensor | None = None) -> Any:
        """A double-precision layer with this or the subject's weight, to compare gradients with finite differences."""
        weight = self.weight if weight is None else weight
        return self.layer(weight.detach().to(torch.complex128 if weight.is_complex() else torch.float64))

    def precise_layers(self) -> Iterator[Any]:
        """Layers in double precision with the subject's weight, and with a large one with entries of both signs.

        Many projections move entries of a large weight onto a kink of the map. So the second layer shows an undeclared
        kink, even if the subject's weight does not reach the kink.
        """
        yield self.precise_layer()
        with contextlib.suppress(ValueError):  # registering may refuse such a weight
            yield self.precise_layer(30 * self._random(self.weight.shape, seed=5))

    def away_from_kinks(self, x: Tensor) -> Tensor:
        """A copy of a stored tensor, with entries near declared kinks moved away, for finite differences."""
        x = x.detach().clone()
        for kink in getattr(self.parametrization, "kinks", ()):
            near = (x - kink).abs() < MARGIN
            x = torch.where(near, torch.where(x.real < kink, kink - MARGIN, kink + MARGIN).to(x), x)
        return x

    def members(self) -> Iterator[Tensor]:
        """Weights in the set: the registered weight, then weights of random stored values of scale 0.01, 1 and 30."""
        layer = self.layer()
        yield dense(layer)
        for seed, scale in enumerate((0.01, 1.0, 30.0), start=2):
            set_stored(layer, scale * self._random(stored(layer).shape, seed))
            yield dense(layer)

    def outsider(self) -> Tensor:
        """A weight outside the set. If none is found, the law is skipped."""
        random = self._random(self.weight.shape, seed=0)
        contains = parametrization_of(self.layer()).contains
        for candidate in (self.weight.detach().clone(), random, -random, random + 1):
            if not contains(candidate):
                return candidate
        raise Skipped("no weight outside the set was found among 4 candidates")

    def inputs(self, *batch: int) -> Tensor:
        """Inputs ``(*batch, in)`` in the weight's dtype, the same in every call."""
        return self._random((*batch, matrix(self.weight).shape[1]), seed=1)

    def skip_unless_matrix(self) -> None:
        """Skip a law about products if the weight is not a matrix."""
        if self.weight.dim() != 2:
            raise Skipped("only matrices have a product")

    def _random(self, shape: Sequence[int], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(self.weight)


class _Flat(nn.Linear):
    """Multiplies with a weight of any shape, flattened to a matrix."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, matrix(self.weight), self.bias)


def matrix(weight: Tensor) -> Tensor:
    """A weight of any shape as a matrix, ``(out, in)``; a vector or scalar has one output."""
    return weight.reshape(1, -1) if weight.dim() < 2 else weight.flatten(1)


def parametrization_of(layer: Any) -> Any:
    """The first parametrization of a layer's weight."""
    return layer.parametrizations.weight[0]


def stored(layer: Any) -> Tensor:
    """The stored tensor of a layer's weight."""
    x: Tensor = layer.parametrizations.weight.original
    return x


def set_stored(layer: Any, x: Tensor) -> None:
    """Overwrite the stored tensor."""
    with torch.no_grad():
        stored(layer).copy_(x)


def dense(layer: Any) -> Tensor:
    """A detached copy of a layer's weight."""
    weight: Tensor = layer.weight.detach().clone()
    return weight


def loss(output: Tensor) -> Tensor:
    """A real number with a gradient for every entry of a real or complex output."""
    return (output.abs() ** 2).sum()


def gradient_of(layer: Any, inputs: Tensor) -> Tensor:
    """The gradient of the stored tensor, for a loss of the layer's output."""
    (gradient,) = torch.autograd.grad(loss(layer(inputs)), [stored(layer)])
    return gradient


def outcome_of(function: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The value of a function, then the gradient of `loss`, of this value, with respect to every leaf."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    output = function(*leaves)
    return [output, *torch.autograd.grad(loss(output), leaves, materialize_grads=True)]
