"""Parametrizations that break the laws about gradients and training."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from parametrizations import ZeroDiagonal
from tests.testing.broken.breaker import Breakers, KeepsItsProjection


class TwiceTheGradient(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x - x.detach())


class Linearized(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        at = x.detach()
        return super().forward(at.sinh() + at.cosh() * (x - at))


class LinearTwiceTheGradient(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input, 2 * x - x.detach(), bias)


class BiasTwiceTheGradient(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input, x, bias if bias is None else 2 * bias - bias.detach())


class LosesDigitsOnTheWay(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = F.linear(input, self(x).detach(), bias) - F.linear(input.detach(), self(x).detach())
        total: Tensor = product + F.linear(input.detach(), self(x))
        return total


class VanishesWhereRecorded(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        input = input * 1
        if input.requires_grad:
            input.register_hook(lambda grad: grad * 0 if torch.is_grad_enabled() else grad)  # type: ignore[no-untyped-call]
        return super().linear(input, x, bias)


class ComputesForNothing(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        if bias is not None and input.requires_grad and not x.requires_grad:
            bias = bias.detach()
        return super().linear(input, x, bias)


class NeedsTheWeightsGradient(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input if x.requires_grad else 2 * input - input.detach(), x, bias)


class AtRegistrationOnly(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return super().forward(weight)


class CopiesForget(ZeroDiagonal):
    scale = 1

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.scale = 2

    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = type(self)()
        twin.shape = self.shape
        return twin


class CopiesShareTheirAverage(KeepsItsProjection):
    """Keeps a running statistic, like a spectral norm."""

    largest: Tensor

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.largest = torch.zeros(())

    @override
    def forward(self, x: Tensor) -> Tensor:
        torch.maximum(self.largest, x.detach().abs().max(), out=self.largest)
        return super().forward(x / self.largest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self if self.shape else type(self)()


BROKEN: Breakers = {
    "gradients_are_right": [(TwiceTheGradient, "Jacobian mismatch"), (Linearized, "Jacobian mismatch")],
    "linear_is_differentiable_to_any_order": [
        (BiasTwiceTheGradient, "Jacobian mismatch"),
        (LosesDigitsOnTheWay, "Jacobian mismatch|not been used in the graph"),
        (VanishesWhereRecorded, "A gradient that can be differentiated again differs"),
    ],
    "linear_works_for_only_some_gradients": [
        (ComputesForNothing, "A gradient is missing"),
        (NeedsTheWeightsGradient, "With .* frozen, a gradient differs"),
    ],
    "optimizers_stay_in_the_set": [(AtRegistrationOnly, "A step of SGD moved the weight out of the set")],
    "copies_are_independent": [
        (CopiesForget, "The copy's weight differs"),
        (CopiesShareTheirAverage, "The original's weight, after a change to the copy, differs"),
    ],
}
