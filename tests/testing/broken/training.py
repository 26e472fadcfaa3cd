"""Parametrizations that break the laws about training."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations import ZeroDiagonal
from tests.testing.broken.breaker import Breakers, KeepsItsProjection


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
    "optimizers_stay_in_the_set": [(AtRegistrationOnly, "A step of SGD moved the weight out of the set")],
    "copies_are_independent": [
        (CopiesForget, "The copy's weight differs"),
        (CopiesShareTheirAverage, "The original's weight, after a change to the copy, differs"),
    ],
}
