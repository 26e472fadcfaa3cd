"""Parametrizations that break the laws about registering, assigning and removing."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations import NegExpDiagonal, ZeroDiagonal
from tests.layers import NonNegative
from tests.testing.broken.breaker import Breakers, KeepsItsProjection
from tests.testing.broken.stored_values import StoresItsArgument


class LogOfPositive(NegExpDiagonal):
    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight


class DividesByZero(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return 1 / x

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return torch.where(weight == 0, 0, 1 / weight)


class ForgetsToProject(NonNegative):
    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight


class ForgetsItsMap(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Resamples(ZeroDiagonal):
    @override
    def project(self, weight: Tensor) -> Tensor:
        return super().project(torch.ones_like(weight))


class AcceptsZero(NegExpDiagonal):
    @override
    def excess(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight).diagonal_scatter(weight.diagonal().clamp(min=0))


class InvertsBadly(ZeroDiagonal):
    @override
    def invert(self, weight: Tensor) -> Tensor:
        return weight * 0.99


class ProjectsInPlace(ZeroDiagonal):
    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight.fill_diagonal_(0)


class ProjectsOnlyOnce(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x

    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        return super().right_inverse(weight) if self.shape is None else weight.clone()


class ProjectsInSilence(ZeroDiagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        return super().right_inverse(self.project(weight) if self.shape == weight.shape else weight)


class ForgetsBeforeItChecks(KeepsItsProjection):
    scale = 1

    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.scale = 1
        x = super().right_inverse(weight)
        self.scale = 2
        return x / 2

    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class KeepsItsArgument(KeepsItsProjection):
    given: Tensor

    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.given = weight.detach()
        return super().right_inverse(weight)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.copysign(self.given))


class ChecksNothing(ZeroDiagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.adopt(weight)
        return self.forward(weight).clone()


class WritesBeforeItChecks(KeepsItsProjection):
    seen: list[Tensor]

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        return super().forward(x)

    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        if self.shape is not None:
            self.seen[0].copy_(weight)
        return super().right_inverse(weight)


class ChecksOnlyAssignments(ZeroDiagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        if self.shape is not None:
            return super().right_inverse(weight)
        self.adopt(weight)
        return self.project(weight)


class Transposed(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mT.contiguous().mT


class RoundsWhereNothingIsRecorded(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if torch.is_grad_enabled() else x.round())


BROKEN: Breakers = {
    "registering_enters_the_set": [
        (LogOfPositive, "4 stored numbers are not finite"),
        (DividesByZero, "5 entries of the weight are not finite"),
        (ForgetsItsMap, "The registered weight is not in the set"),
        (ForgetsToProject, "project\\(weight\\) is not in the set. Correct project"),
    ],
    "registering_keeps_a_member": [(Resamples, "A member that is registered moved in")],
    "assigning_keeps_a_member": [
        (AcceptsZero, "A member that is assigned moved in 5 of 30 entries"),
        (InvertsBadly, "A member that is assigned moved in 25 of 30 entries"),
    ],
    "assigning_an_outsider_follows_the_policy": [
        (partial(ProjectsInPlace, on_infeasible="project"), "The assigned tensor, after its projection, differs"),
        (partial(ProjectsOnlyOnce, on_infeasible="project"), "The projected weight is not in the set"),
        (ProjectsInSilence, "outside the set raised nothing"),
        (ForgetsBeforeItChecks, "After a refused assignment the weight differs"),
    ],
    "assigning_shares_no_memory": [
        (StoresItsArgument, "The assigned tensor, after a step"),
        (KeepsItsArgument, "The layer's weight, after a write to the assigned tensor, differs"),
    ],
    "bad_input_changes_nothing": [
        (ChecksNothing, "Assigning NaN raised nothing"),
        (WritesBeforeItChecks, "After assigning NaN, the stored tensor differs"),
        (ChecksOnlyAssignments, "Registering on NaN raised nothing"),
    ],
    "one_object_for_one_tensor": [(ChecksNothing, "on a second tensor raised nothing")],
    "removal_gives_a_plain_layer": [
        (Transposed, "The remaining weight has strides"),
        (RoundsWhereNothingIsRecorded, "The output after removal differs"),
    ],
}
