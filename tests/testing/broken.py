"""For every law a parametrization that breaks it: the mistakes that people make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from parametrizations import Diagonal, NegExpDiagonal, ZeroDiagonal
from parametrizations.testing.subject import Subject
from tests.cases import weight


class NoContract(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x


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


class StoresAView(Diagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.adopt(weight)
        return weight.diagonal()


class PlainExp(NegExpDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.diagonal_scatter(-x.diagonal().exp())


class ContainsAll(ZeroDiagonal):
    @override
    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        return True


class AcceptsZero(NegExpDiagonal):
    @override
    def excess(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight).diagonal_scatter(weight.diagonal().clamp(min=0))


class LogOfPositive(NegExpDiagonal):
    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight


class Resamples(ZeroDiagonal):
    @override
    def project(self, weight: Tensor) -> Tensor:
        return super().project(torch.ones_like(weight))


class InvertsBadly(ZeroDiagonal):
    @override
    def invert(self, weight: Tensor) -> Tensor:
        return weight * 0.99


class ProjectsInSilence(ZeroDiagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        return super().right_inverse(self.project(weight) if self.shape == weight.shape else weight)


class StoresItsArgument(ZeroDiagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        super().right_inverse(weight)
        return weight


class ChecksNothing(ZeroDiagonal):
    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        self.adopt(weight)
        return self.forward(weight).clone()


class TwiceTheGradient(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x - x.detach())


class ComputesOnce(ZeroDiagonal):
    weight: Tensor | None = None

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or self.weight.grad_fn is None:
            self.weight = super().forward(x * torch.ones_like(x))
        return self.weight


class AtRegistrationOnly(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return super().forward(weight)


class ForgetsTheBias(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, self(x))


class FixedDtypeMask(ZeroDiagonal):
    mask: Tensor

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.mask = 1 - torch.eye(*weight.shape, dtype=weight.dtype)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


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


class UnsavedMask(ZeroDiagonal):
    kept: Tensor

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.kept = weight.abs() > weight.abs().median()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.kept, x, 0)


class Structure:
    pass


class SavesAnObject(ZeroDiagonal):
    @override
    def get_extra_state(self) -> object:
        return Structure()

    @override
    def set_extra_state(self, state: Any) -> None:
        pass


class AutocastsItsWeight(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ torch.eye(x.shape[1], dtype=x.dtype)


class LooksAtValues(ZeroDiagonal):
    scale: ClassVar[float] = 1.0

    @override
    def forward(self, x: Tensor) -> Tensor:
        if bool((x.detach() > 1e30).any()):
            return super().forward(x) * self.scale
        return super().forward(x)


class Transposed(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mT.contiguous().mT


class IgnoresTolerance(ZeroDiagonal):
    @override
    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        return super().contains(weight)


class FreeInEvaluation(ZeroDiagonal):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x + 1


class LosesDigitsOnTheWay(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = F.linear(input, self(x).detach(), bias) - F.linear(input.detach(), self(x).detach())
        total: Tensor = product + F.linear(input.detach(), self(x))
        return total


class ComputesForNothing(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input, x, bias.detach() if bias is not None and not x.requires_grad else bias)


class Broadcasts(Diagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        if input.shape[-1] == 1 and x.numel() > 1:
            return super().linear(input, x, bias)
        output = input[..., : x.numel()] * x
        output = F.pad(output, (0, self.known_shape[0] - output.shape[-1]))
        return output if bias is None else output + bias


class LinearLooksAtValues(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input * 2 if bool((x.detach() > 1e30).any()) else input, x, bias)


class LinearForgetsAutocast(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        output: Tensor = (input.unsqueeze(-2) * self(x)).sum(-1)
        return output if bias is None else output + bias


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


BROKEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "has_the_contract": (NoContract, "Missing: right_inverse, contains, linear"),
    "repr_is_complete": (Silent, "The number 6 is not in ''"),
    "forward_gives_a_plain_tensor": (ReturnsASubclass, "The weight is a Tagged"),
    "right_inverse_is_fresh": (StoresAView, "has strides"),
    "every_stored_value_is_in_the_set": (PlainExp, "Stored values of 90 give a weight outside"),
    "contains_tells_members": (ContainsAll, "contains is True for a weight of NaN"),
    "contains_refuses_what_the_map_misses": (AcceptsZero, "A weight that contains accepts moved in 5 of 30"),
    "registering_enters_the_set": (LogOfPositive, "4 stored numbers are not finite"),
    "registering_keeps_a_member": (Resamples, "A member that is registered moved in"),
    "assigning_keeps_a_member": (InvertsBadly, "A member that is assigned moved in 25 of 30 entries"),
    "assigning_an_outsider_follows_the_policy": (ProjectsInSilence, "outside the set raised nothing"),
    "assigning_shares_no_memory": (StoresItsArgument, "The assigned tensor, after a step"),
    "bad_input_changes_nothing": (ChecksNothing, "Assigning NaN raised nothing"),
    "one_object_for_one_tensor": (ChecksNothing, "on a second tensor raised nothing"),
    "gradients_are_right": (TwiceTheGradient, "Jacobian mismatch"),
    "backward_works_at_every_step": (ComputesOnce, "backward through the graph a second time"),
    "optimizers_stay_in_the_set": (AtRegistrationOnly, "A step of SGD moved the weight out of the set"),
    "linear_is_the_dense_product": (ForgetsTheBias, "linear's output or its gradient differs"),
    "contains_takes_a_tolerance": (IgnoresTolerance, "contains is False at atol="),
    "evaluation_is_like_training": (FreeInEvaluation, "The weight in evaluation mode differs in 30 of 30"),
    "linear_is_differentiable_to_any_order": (LosesDigitsOnTheWay, "Jacobian mismatch|not been used in the graph"),
    "linear_works_for_only_some_gradients": (ComputesForNothing, "A gradient is missing|does not require grad"),
    "linear_works_under_vmap": (LinearLooksAtValues, "vmap"),
    "linear_refuses_what_a_layer_refuses": (Broadcasts, "linear with wider inputs raised nothing"),
    "fused_layers_are_the_layers": (ForgetsTheBias, "The fused output differs in 18 of 18 entries|differs in 15 of 18"),
    "fused_layers_autocast": (LinearForgetsAutocast, "The output is torch.float32 instead of torch.bfloat16"),
    "fused_layers_compile": (LinearLooksAtValues, "[Dd]ata-dependent|builtin operator `bool`"),
    "fused_layers_export": (LinearOfItsOwnOperator, "The exported program calls .*scaled_in_tests"),
    "dtype_moves": (FixedDtypeMask, "After .to.torch.bfloat16. the weight is torch.float32"),
    "device_moves": (BufferMask, "After meta, to_empty and restored values the weight differs"),
    "meta_registration": (BufferMask, "The weight of a layer built on meta and loaded differs"),
    "copies_are_independent": (CopiesForget, "The copy's weight differs"),
    "state_dict_reloads": (UnsavedMask, "The reloaded weight differs"),
    "checkpoint_files": (SavesAnObject, "weights_only|Unsupported|WeightsUnpickler"),
    "checkpoint_is_compact": (StoresAView, "The checkpoint holds .* bytes for 23 stored numbers"),
    "autocast_works": (AutocastsItsWeight, "The weight under autocast is torch.bfloat16"),
    "func_transforms_work": (LooksAtValues, "vmap"),
    "compiles": (LooksAtValues, "[Dd]ata-dependent|builtin operator `bool`"),
    "exports": (LooksAtValues, "data-dependent|Could not guard"),
    "removal_gives_a_plain_layer": (Transposed, "The weight that is left has strides"),
}


def subject(law: str) -> Subject:
    shape = (24, 23) if law == "checkpoint_is_compact" else (6, 5)
    return Subject(BROKEN[law][0](), weight(shape))
