"""Parametrizations that break the laws about checkpoints, dtypes, devices and transforms."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations import ZeroDiagonal
from tests.testing.broken.breaker import Breakers, KeepsItsProjection
from tests.testing.broken.stored_values import DropsOut, StoresAView


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


class FixedDtypeMask(ZeroDiagonal):
    mask: Tensor

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.mask = 1 - torch.eye(*weight.shape, dtype=weight.dtype)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


class ComparesInFloat32(ZeroDiagonal):
    """A diagonal of 0.1, which is another number in every dtype."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.diagonal_scatter(torch.full_like(x.diagonal(), 0.1))

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return super().excess(weight.float() - 0.1)


class StoresBillionths(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 1e9)

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return weight / 1e9


class BufferMask(ZeroDiagonal):
    mask: Tensor

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        mask = 1 - torch.eye(*weight.shape, dtype=weight.dtype, device=weight.device)
        self.register_buffer("mask", mask, persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


class HalvesOnTheGpu(KeepsItsProjection):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 2 if x.is_cuda else x)


class LooksAtValues(ZeroDiagonal):
    scale: ClassVar[float] = 1.0

    @override
    def forward(self, x: Tensor) -> Tensor:
        if bool((x.detach() > 1e30).any()):
            return super().forward(x) * self.scale
        return super().forward(x)


class TakesTheWrongAxes(torch.autograd.Function):
    @staticmethod
    @override
    def forward(x: Tensor) -> Tensor:
        return x.diagonal_scatter(torch.zeros_like(x.diagonal()))

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    @override
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.diagonal_scatter(torch.zeros_like(grad.diagonal()))

    @staticmethod
    @override
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, int]:
        return TakesTheWrongAxes.forward(x), 0


class WrongUnderVmap(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = TakesTheWrongAxes.apply(x)  # type: ignore[no-untyped-call]
        return weight


class PutsIntoPlaces(ZeroDiagonal):
    """Uses an operation without a deterministic form in PyTorch."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(min(x.shape), device=x.device) * (x.shape[1] + 1)
        return x.put(places, x.new_zeros(places.shape))


class HalvesWhereDeterministic(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / 2 if torch.are_deterministic_algorithms_enabled() else x)


class DoublesWhereDeterministic(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input, x, bias) * (1 + torch.are_deterministic_algorithms_enabled())


class DetachesWhereDeterministic(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input, (x + x.detach()) / 2 if torch.are_deterministic_algorithms_enabled() else x, bias)


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
    "dtype_moves": [
        (FixedDtypeMask, "After .to.torch.bfloat16. the weight is torch.float32"),
        (ComparesInFloat32, "After .to.torch.bfloat16. the weight is not in the set"),
        (StoresBillionths, "After .to.torch.float16. the weight is off by 1 of its largest entry"),
    ],
    "device_moves": [
        (BufferMask, "After meta, to_empty and restored values the weight differs"),
        (HalvesOnTheGpu, "The weight on the GPU differs"),
    ],
    "meta_registration": [
        (RefusesAnotherMask, "Meta tensors"),
        (BufferMask, "The weight of a layer built on meta and loaded differs"),
    ],
    "func_transforms_work": [
        (LooksAtValues, "vmap"),
        (DropsOut, "The gradient through functional_call differs"),
        (WrongUnderVmap, "The weights under vmap differs"),
    ],
    "deterministic_algorithms_do": [
        (PutsIntoPlaces, "put_ does not have a deterministic implementation"),
        (HalvesWhereDeterministic, "The weight by deterministic algorithms differs"),
        (DoublesWhereDeterministic, "The output by deterministic algorithms differs"),
        (DetachesWhereDeterministic, "The gradient by deterministic algorithms differs"),
    ],
}
