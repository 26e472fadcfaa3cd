"""Parametrizations that break the laws about checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations import ZeroDiagonal
from tests.testing.broken.breaker import Breakers
from tests.testing.broken.stored_values import StoresAView


class UnsavedMask(ZeroDiagonal):
    kept: Tensor

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.kept = weight.abs() > weight.abs().median()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.kept, x, 0)


class RefusesAnotherMask(UnsavedMask):
    @override
    def get_extra_state(self) -> Tensor:
        return self.kept

    @override
    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(self.kept, state):
            raise ValueError("It was saved with another mask.")


class Structure:
    pass


class SavesAnObject(ZeroDiagonal):
    @override
    def get_extra_state(self) -> object:
        return Structure()

    @override
    def set_extra_state(self, state: Any) -> None:
        pass


class SavesAText(ZeroDiagonal):
    """Saves a string: ``weights_only`` loads it, but safetensors saves only tensors."""

    @override
    def get_extra_state(self) -> str:
        return "zero"

    @override
    def set_extra_state(self, state: str) -> None:
        pass


class SavesItself(UnsavedMask):
    """Saves its mask without a copy, so the checkpoint shares the mask's memory."""

    @override
    def get_extra_state(self) -> Tensor:
        return self.kept

    @override
    def set_extra_state(self, state: Tensor) -> None:
        if state.shape != self.kept.shape:
            raise ValueError("It was saved for another shape.")
        self.kept = state.clone()


class TakesAnything(SavesItself):
    """Accepts a mask that does not fit, which fails at the next step."""

    @override
    def get_extra_state(self) -> Tensor:
        return self.kept.clone()

    @override
    def set_extra_state(self, state: Tensor) -> None:
        self.kept = state


BROKEN: Breakers = {
    "state_dict_reloads": [
        (RefusesAnotherMask, "another mask"),
        (UnsavedMask, "The reloaded weight .* differs"),
        (SavesAnObject, "weights_only|Unsupported|WeightsUnpickler"),
        (SavesAText, "expected torch.Tensor but received <class 'str'>"),
    ],
    "checkpoint_is_compact": [(StoresAView, "The checkpoint holds .* bytes for 23 stored numbers")],
    "saved_structure_is_a_copy_and_checked": [
        (SavesItself, "The weight, after a write into the saved structure, differs in"),
        (TakesAnything, "Loading a structure of another length raised nothing"),
    ],
}
