"""Conversions: the ``mask`` argument of `MaskedSparse` to a rule, and the result of a rule to a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parametrizations._torch.arrays import from_array, is_array
from parametrizations.masks import MaskRule

__all__ = ["Given", "Name", "as_mask", "as_rule"]


class Name(str):
    """A text that `repr` shows without quotes. It replaces a used rule, which may hold a large mask."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True, eq=False)
class Given:
    """A rule that returns a given mask. It can be pickled, unlike a closure."""

    mask: Tensor

    def __call__(self, weight: Tensor) -> Tensor:  # noqa: ARG002
        return self.mask


def as_rule(mask: object) -> MaskRule:
    """A new rule for a mask; any other rule unchanged."""
    if isinstance(mask, Tensor) or is_array(mask):
        given = as_mask(mask, None).clone()
        return MaskRule(f"tensor of shape {tuple(given.shape)}", Given(given))
    if isinstance(mask, MaskRule):
        return mask
    if not callable(mask):
        raise TypeError(
            "MaskedSparse needs a boolean tensor or a mask rule. "
            f"Got {type(mask).__name__}. See parametrizations.masks for rules."
        )
    return MaskRule(getattr(mask, "__name__", type(mask).__name__), mask)


def as_mask(mask: object, shape: torch.Size | None) -> Tensor:
    """The mask as a tensor, refused unless it has this shape, or 2 dimensions if ``shape`` is None."""
    mask = from_array(mask) if is_array(mask) else mask
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"MaskedSparse needs a mask of dtype torch.bool. Got {got}. Pass e.g. `mask != 0`.")
    if mask.is_meta or mask.layout is not torch.strided:
        raise ValueError(
            f"MaskedSparse needs a dense mask that has values. Got one of layout {mask.layout} on "
            f"{mask.device}. Make the mask on the CPU."
        )
    if mask.dim() != 2 or shape not in (None, mask.shape):
        expected = "2 dimensions" if shape is None else f"the weight's shape, {tuple(shape)}"
        raise ValueError(
            f"MaskedSparse needs a mask of {expected}. Got shape {tuple(mask.shape)}. True keeps weight[output, input]."
        )
    return mask
