"""`Kept`: the values and positions that a mask keeps, enough for a rule to move the mask."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from parametrizations.masks.arguments import Axes, home

__all__ = ["Kept"]


class Kept:
    """The argument of a rule that works on kept entries, or on several weights at once: values and positions.

    A kept entry may be 0, so the values alone do not tell which entries are kept.

    Args:
        name: The weight's name in the plain model.
        shape: The shape of the weight.
        values: The kept entries, ``(kept,)``; copied when a rule asks for them.
        positions: Their row-major positions in the weight, sorted: ``(kept,)``. None before there is a mask, as in
            `register`: then all entries are shown.
        axes: The axes of outputs and inputs of a convolution, ``(out, in)``. None for other layers.

    Example:
        >>> kept = Kept("0.weight", torch.Size((2, 3)), torch.tensor([0.5, 0.0]), torch.tensor([1, 5]))
        >>> kept.places
        tensor([1, 5])
    """

    def __init__(
        self, name: str, shape: torch.Size, values: Tensor, positions: Tensor | None = None, *, axes: Axes = None
    ) -> None:
        self.name = name
        self.shape = shape
        self.device = home(values)
        self._shared = values.detach()
        self.axes = axes
        self._positions = positions

    @classmethod
    def whole(cls, weight: Tensor, name: str = "weight", axes: Axes = None) -> Self:
        """Every entry of a weight without a mask."""
        return cls(name, weight.shape, weight.flatten(), axes=axes)

    @property
    def count(self) -> int:
        """How many entries are kept."""
        return self._shared.numel()

    @cached_property
    def values(self) -> Tensor:
        """The kept entries, ``(kept,)``, a copy: writing into it does not change the weight."""
        return self._shared.clone()

    @cached_property
    def places(self) -> Tensor:
        """Their row-major positions in the weight, sorted, int64: ``(kept,)``."""
        if self._positions is None:
            return torch.arange(self.count, device=self.device)
        return self._positions.to(torch.int64, copy=True)
