"""Parametrizations that break the laws about products and fused layers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal
from parametrizations.typing import Places
from tests.testing.broken.breaker import Breakers
from tests.testing.broken.stored_values import DropsOut
from tests.testing.broken.training import CopiesForget, LinearTwiceTheGradient


class ForgetsTheBias(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, self(x))


class LinearLooksAtValues(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input * 2 if bool((x.detach() > 1e30).any()) else input, x, bias)


class Broadcasts(Diagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        if input.shape[-1] == 1 and x.numel() > 1:
            return super().linear(input, x, bias)
        assert self.shape is not None
        output = input[..., : x.numel()] * x
        output = F.pad(output, (0, self.shape[0] - output.shape[-1]))
        return output if bias is None else output + bias


class CopiesForgetTheirWeight(CopiesForget):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, 2 * ZeroDiagonal.forward(self, x), bias)


class AutocastsItsWeight(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ torch.eye(x.shape[1], dtype=x.dtype)


class LinearForgetsAutocast(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        output: Tensor = (input.unsqueeze(-2) * self(x)).sum(-1)
        return output if bias is None else output + bias


class HalvesWhereCompiled(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 2 if torch.compiler.is_compiling() else x)


class DetachesWhereCompiled(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x + x.detach()) / 2 if torch.compiler.is_compiling() else x)


def _scaled(input: Tensor) -> Tensor:
    return input * 1


scaled = torch.library.custom_op("parametrizations::scaled_in_tests", _scaled, mutates_args=())
scaled.register_fake(torch.empty_like)
scaled.register_autograd(lambda _, grad: grad)


class LinearOfItsOwnOperator(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        scaled_input: Tensor = scaled(input)
        return super().linear(scaled_input, x, bias)


class Scaled(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: object, input: Tensor) -> Tensor:
        return input * 1

    @staticmethod
    @override
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class LinearOfItsOwnFunction(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        scaled_input: Tensor = Scaled.apply(input)  # type: ignore[no-untyped-call]
        return super().linear(scaled_input, x, bias)


class ForgetsTheBiasWhereTraced(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        return super().linear(input, x, None if traced else bias)


class StoresNextToItsPlaces(Diagonal):
    @override
    def places(self, x: Tensor) -> Places:
        places = super().places(x)
        assert places is not None
        return Places(places.shape, None, lambda: places.positions() + 1)


class NamesNoDiagonal(Diagonal):
    @override
    def places(self, x: Tensor) -> Places:
        places = super().places(x)
        assert places is not None
        return Places(places.shape, places.positions()[:0], places.positions)


class TakesTwoForTheWholeDiagonal(MaskedSparse):
    @override
    def places(self, x: Tensor) -> Places:
        places = super().places(x)
        return Places(places.shape, None, places.positions)


def two_of_the_diagonal(weight: Tensor) -> Tensor:
    mask = torch.eye(*weight.shape, dtype=torch.bool)
    mask[2:] = False
    return mask


class OnEntriesLooksAtValues(NegExpDiagonal):
    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        return None if bool(x.mean() > 0.8) else super().on_entries(x, places)


class OnEntriesWhateverTheDiagonal(NegExpDiagonal):
    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        return super().on_entries(x, places) if places.has_whole_diagonal else x * 1


class OnEntriesTwice(ZeroDiagonal):
    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        return super().on_entries(2 * x, places)


class OnEntriesTwiceTheGradient(ZeroDiagonal):
    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        return super().on_entries(2 * x - x.detach(), places)


class InvertsWithoutProjecting(ZeroDiagonal):
    @override
    def invert_entries(self, entries: Tensor, places: Places) -> Tensor | None:
        return entries


BROKEN: Breakers = {
    "stored_entries_are_at_their_places": [
        (StoresNextToItsPlaces, "The weight with the stored entries at their places differs"),
        (NamesNoDiagonal, "names other entries than the diagonal ones"),
        (lambda: TakesTwoForTheWholeDiagonal(two_of_the_diagonal), "has_whole_diagonal is wrong"),
    ],
    "steps_on_entries_are_the_steps": [
        (OnEntriesLooksAtValues, "on_entries returns None for some x only"),
        (OnEntriesWhateverTheDiagonal, "forward gives entries that on_entries leaves out"),
        (OnEntriesTwice, "the result of on_entries differs"),
        (OnEntriesTwiceTheGradient, "the gradient of on_entries differs"),
        (InvertsWithoutProjecting, "the result of invert_entries differs"),
    ],
    "linear_is_the_dense_product": [(ForgetsTheBias, "linear's output or its gradient differs")],
    "linear_works_under_vmap": [
        (LinearLooksAtValues, "vmap"),
        (ForgetsTheBias, "Under vmap over .*, linear differs"),
    ],
    "linear_refuses_what_a_layer_refuses": [(Broadcasts, "linear with wider inputs raised nothing")],
    "fused_layers_are_the_layers": [
        (ForgetsTheBias, "The fused output differs"),
        (LinearTwiceTheGradient, "The fused gradient differs"),
        (CopiesForgetTheirWeight, "The fused layer's weight differs"),
    ],
    "autocast_works": [
        (AutocastsItsWeight, "The weight under autocast is torch.bfloat16"),
        (LinearForgetsAutocast, "The output under autocast has dtype torch.float32 instead of torch.bfloat16"),
        (DropsOut, "The output under autocast differs"),
        (ForgetsTheBias, "The output under autocast differs"),
    ],
    "compiles": [
        (HalvesWhereCompiled, "The compiled output differs"),
        (DetachesWhereCompiled, "The compiled gradient differs"),
        (LinearLooksAtValues, "[Dd]ata-dependent|builtin operator `bool`"),
        (ForgetsTheBias, "The compiled output differs"),
        (LinearTwiceTheGradient, "The compiled gradient differs"),
    ],
    "exports": [
        (HalvesWhereCompiled, "The exported program's output differs"),
        (LinearOfItsOwnOperator, "The exported program calls .*scaled_in_tests"),
        (ForgetsTheBias, "The exported program's output differs"),
        (LinearOfItsOwnFunction, "Could not export Python function call"),
        (ForgetsTheBiasWhereTraced, "The traced output differs"),
    ],
}
