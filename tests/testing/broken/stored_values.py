"""Parametrizations that break the laws about stored values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from parametrizations import Diagonal, NegExpDiagonal, Parametrization, ZeroDiagonal
from tests.testing.broken.breaker import Breakers, KeepsItsProjection


class NoContract(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x


class Unwritten(Parametrization):
    pass


class Silent(ZeroDiagonal):
    @override
    def extra_repr(self) -> str:
        return ""


class Tagged(Tensor):
    pass


class ReturnsASubclass(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).as_subclass(Tagged)


class ReturnsASparseTensor(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to_sparse()


class StaysOnMeta(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to("meta")


class DropsOut(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x))


class FreeInEvaluation(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x + 1


class StoresAView(Diagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.adopt(weight)
        return weight.diagonal()


class StoresTheWholeMatrix(Diagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.adopt(weight)
        return weight.clone().flatten()[: min(weight.shape)]


class StoresItsArgument(ZeroDiagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        super().right_inverse(weight)
        return weight


class PlainExp(NegExpDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.diagonal_scatter(-x.diagonal().exp())


class SquareRoot(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sign() * x.abs().sqrt())


class AnswersWithATensor(ZeroDiagonal):
    @override
    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        return torch.tensor(super().contains(weight, atol))  # type: ignore[return-value]


class ContainsAll(ZeroDiagonal):
    @override
    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        return True


class IgnoresTolerance(ZeroDiagonal):
    @override
    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        return super().contains(weight)


class TakesNoToleranceForAny(ZeroDiagonal):
    @override
    def contains(self, weight: Tensor, atol: float = 1e-8) -> bool:
        return not atol or super().contains(weight, atol)


BROKEN: Breakers = {
    "has_the_contract": [
        (NoContract, "Missing: right_inverse, contains, linear"),
        (Unwritten, "Missing: needs"),
    ],
    "repr_is_complete": [(Silent, "The number 6 is not in ''")],
    "forward_gives_a_plain_tensor": [
        (ReturnsASubclass, "The weight is a Tagged"),
        (ReturnsASparseTensor, "The weight's layout is torch.sparse_coo"),
        (StaysOnMeta, "The weight is on meta, the stored tensor on cpu"),
        (DropsOut, "The weight, asked for twice, differs"),
        (FreeInEvaluation, "The weight in evaluation mode differs in 30 of 30"),
    ],
    "right_inverse_is_fresh": [
        (StoresAView, "has strides"),
        (StoresTheWholeMatrix, "holds 120 bytes for 20 bytes of numbers"),
        (StoresItsArgument, "shares memory with the weight that it was computed from"),
    ],
    "every_stored_value_is_in_the_set": [
        (PlainExp, "Stored values of 90 give a weight outside"),
        (SquareRoot, "Stored values of 0 have a gradient that is not finite"),
    ],
    "contains_tells_members": [
        (AnswersWithATensor, "contains returns a Tensor, not a bool"),
        (ContainsAll, "contains is True for a weight of NaN"),
    ],
    "contains_takes_a_tolerance": [
        (IgnoresTolerance, "contains is False at atol="),
        (TakesNoToleranceForAny, "contains is True at atol=0"),
    ],
}
