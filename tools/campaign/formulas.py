"""Each constraint as a dense formula in plain PyTorch. This module does not import the library."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BOUND", "ROUNDS", "Step"]

BOUND = {torch.float16: 8, torch.bfloat16: 80, torch.float32: 80, torch.float64: 700}
"""From where on the exponential of `NegExpDiagonal` and `Signed` grows as a logarithm."""
FLOOR = 1e-4
ROUNDS = ("NegExpDiagonal", "Signed")
"""The constraints that store logarithms."""


@dataclass(frozen=True)
class Step:
    """One constraint on a weight.

    Args:
        kind: The name of its class.
        projects: The option ``on_infeasible="project"``.
        shape: The shape of the weight.
        mask: The mask of a sparse one.
        blocks: How many blocks of rows have a diagonal.
        sign: -1, 0 (free) or 1 for each entry of a signed one; 0 also where earlier constraints put zeros.
        map: Its map.
        again: The text of a constraint of this kind whose signs a checkpoint has to replace.
    """

    kind: str
    projects: bool
    shape: torch.Size
    mask: Tensor | None = None
    blocks: int = 1
    sign: Tensor | None = None
    map: str = "exp"
    again: str = ""

    @property
    def diagonal(self) -> Tensor:
        rows, columns = self.shape
        return torch.eye(rows // self.blocks, columns, dtype=torch.bool).repeat(self.blocks, 1)

    def weight(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight for the stored tensor ``x``, computed in its dtype as if stored in ``dtype``."""
        if self.kind == "ZeroDiagonal":
            return torch.where(self.diagonal, 0, x)
        if self.kind in ROUNDS:
            return self._real(lambda real: self._mapped(real, dtype), x)
        places = self.diagonal if self.mask is None else self.mask
        return torch.zeros(self.shape, dtype=x.dtype).masked_scatter(places, x)

    def project(self, weight: Tensor) -> Tensor:
        """Project a weight onto the set, as registration does."""
        if self.kind not in ROUNDS:
            return torch.where(self.keeps, weight, 0)
        return self._real(self._reflected, weight)

    def breaks(self, weight: Tensor) -> bool:
        """Whether a weight is outside the set."""
        if self.kind not in ROUNDS:
            return bool((weight[~self.keeps] != 0).any())
        least, largest = _limits(weight.real.dtype, self.map)
        size = (weight.real * self._sign)[self._sign != 0]
        return bool(((size < least) | (size > largest)).any())

    def invert(self, weight: Tensor) -> Tensor:
        """The stored tensor for a member of the set."""
        if self.kind == "Diagonal":
            return weight[self.diagonal]
        if self.mask is not None:
            return weight[self.mask]
        if self.kind in ROUNDS:
            inverse = _logarithm if self.map == "exp" else _softplus_inverse
            return self._real(lambda real: torch.where(self._sign == 0, real, inverse(real * self._sign)), weight)
        return weight.clone()

    @property
    def keeps(self) -> Tensor:
        """The entries that may differ from zero."""
        if self.kind in ROUNDS:
            return torch.ones(self.shape, dtype=torch.bool)
        if self.mask is not None:
            return self.mask
        return self.diagonal if self.kind == "Diagonal" else ~self.diagonal

    @property
    def _sign(self) -> Tensor:
        """The sign of each entry; 0 if it is free."""
        return -self.diagonal.to(torch.int8) if self.sign is None else self.sign

    def _real(self, function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
        """Apply a function to the real part."""
        return torch.complex(function(weight.real), weight.imag) if weight.is_complex() else function(weight)

    def _mapped(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        size = (_exponential if self.map == "exp" else _softplus)(x, torch.empty(0, dtype=dtype).real.dtype)
        return torch.where(self._sign == 0, x, self._sign * size)

    def _reflected(self, weight: Tensor) -> Tensor:
        size = weight * self._sign
        size = torch.where(size > 0, size, (-size).clamp(min=FLOOR)).clamp(*_limits(weight.dtype, self.map))
        return torch.where(self._sign == 0, weight, self._sign * size)


def _exponential(x: Tensor, dtype: torch.dtype) -> Tensor:
    bound = BOUND[dtype]
    beyond = math.exp(bound) * (1 + torch.log1p((x - bound).clamp(min=0)))
    return torch.where(x > bound, beyond, x.clamp(max=bound).exp()).clamp(min=torch.finfo(dtype).tiny)


def _logarithm(size: Tensor) -> Tensor:
    unit = math.exp(BOUND[size.dtype])
    return torch.where(size <= unit, size.log(), BOUND[size.dtype] - 1 + (size / unit - 1).exp())


def _softplus(x: Tensor, dtype: torch.dtype) -> Tensor:
    wide = x.float() if x.dtype.itemsize == 2 else x
    size = torch.logaddexp(wide, torch.zeros_like(wide)).to(x.dtype)
    return size.clamp(min=torch.finfo(dtype).tiny)


def _softplus_inverse(size: Tensor) -> Tensor:
    wide = size.float() if size.dtype.itemsize == 2 else size
    return (wide + (-torch.expm1(-wide)).log()).to(size.dtype)


def _limits(dtype: torch.dtype, map: str) -> tuple[float, float]:
    ends, bound = torch.finfo(dtype), BOUND[dtype]
    if map == "softplus":
        return ends.tiny, ends.max
    return ends.tiny, float(torch.tensor(math.exp(bound) * (1 + math.log1p(ends.max - bound))).to(dtype))
