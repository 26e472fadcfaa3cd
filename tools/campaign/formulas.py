"""Each constraint as a dense formula in plain PyTorch. This module does not import the library."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BOUND", "Step"]

BOUND = {torch.float16: 8, torch.bfloat16: 80, torch.float32: 80, torch.float64: 700}
"""From where on the exponential of `NegExpDiagonal` grows as a logarithm."""
FLOOR = 1e-4


@dataclass(frozen=True)
class Step:
    """One constraint on a matrix: its kind, the option ``on_infeasible="project"``, and the mask of a sparse one."""

    kind: str
    projects: bool
    shape: torch.Size
    mask: Tensor | None = None

    @property
    def diagonal(self) -> Tensor:
        return torch.eye(*self.shape, dtype=torch.bool)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        if self.kind == "Diagonal":
            return (min(self.shape),)
        if self.mask is not None:
            return (int(self.mask.sum()),)
        return tuple(self.shape)

    def weight(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight for the stored tensor ``x``, computed in its dtype as if stored in ``dtype``."""
        if self.kind == "ZeroDiagonal":
            return torch.where(self.diagonal, 0, x)
        if self.kind == "NegExpDiagonal":
            return torch.where(self.diagonal, _negative(x, dtype), x)
        places = self.diagonal if self.mask is None else self.mask
        return torch.zeros(self.shape, dtype=x.dtype).masked_scatter(places, x)

    def project(self, weight: Tensor) -> Tensor:
        """Project a weight onto the set, as registration does."""
        if self.kind != "NegExpDiagonal":
            return torch.where(self._free(), weight, 0)
        least, largest = _limits(weight.dtype)
        size = torch.where(weight < 0, -weight, weight.clamp(min=FLOOR)).clamp(least, largest)
        return torch.where(self.diagonal, -size, weight)

    def breaks(self, weight: Tensor) -> bool:
        """Whether a weight is outside the set."""
        if self.kind != "NegExpDiagonal":
            return bool((weight[~self._free()] != 0).any())
        least, largest = _limits(weight.dtype)
        size = -weight.diagonal()
        return bool(((size < least) | (size > largest)).any())

    def invert(self, weight: Tensor) -> Tensor:
        """The stored tensor for a member of the set."""
        if self.kind == "Diagonal":
            return weight.diagonal().clone()
        if self.mask is not None:
            return weight[self.mask]
        if self.kind == "NegExpDiagonal":
            return torch.where(self.diagonal, _logarithm(-weight), weight)
        return weight.clone()

    def _free(self) -> Tensor:
        """A mask of the unconstrained entries."""
        if self.mask is not None:
            return self.mask
        return self.diagonal if self.kind == "Diagonal" else ~self.diagonal


def _negative(x: Tensor, dtype: torch.dtype) -> Tensor:
    bound = BOUND[dtype]
    beyond = math.exp(bound) * (1 + torch.log1p((x - bound).clamp(min=0)))
    return -torch.where(x > bound, beyond, x.clamp(max=bound).exp()).clamp(min=torch.finfo(dtype).tiny)


def _logarithm(size: Tensor) -> Tensor:
    unit = math.exp(BOUND[size.dtype])
    return torch.where(size <= unit, size.log(), BOUND[size.dtype] - 1 + (size / unit - 1).exp())


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    ends, bound = torch.finfo(dtype), BOUND[dtype]
    return ends.tiny, float(torch.tensor(math.exp(bound) * (1 + math.log1p(ends.max - bound))).to(dtype))
