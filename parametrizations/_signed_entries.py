"""Entries with signs: the common part of `Signed` and `NegExpDiagonal`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parametrizations._torch.private import are_transforms_active, is_traced
from parametrizations._torch.transforms import has_tangent, is_differentiated, is_recorded
from parametrizations.positive import bound_of, exp, is_plain, log, softplus, softplus_inverse

FLOOR = 1e-4
"""The smallest absolute value that a projected entry with a wrong sign gets: a normal number in every dtype, small
compared with usual weights, and large enough for a gradient to move it (``exp`` has the gradient ``|w|``)."""

MANY = 2**16
"""With fewer entries, plain autograd takes less time than `_Large`, a custom autograd function."""


class Signs(NamedTuple):
    """The signs of entries.

    Args:
        sign: 1 or -1 for all entries, or a tensor of these; arbitrary at free entries.
        free: A boolean tensor, True at free (unconstrained) entries; None if no entry is free.
    """

    sign: int | Tensor
    free: Tensor | None = None

    def times(self, values: Tensor) -> Tensor:
        """The values times the signs."""
        if isinstance(self.sign, Tensor):
            return values * self.sign
        return values if self.sign == 1 else -values

    def where_bound(self, values: Tensor, otherwise: Tensor) -> Tensor:
        """``values``, but ``otherwise`` at free entries."""
        return values if self.free is None else torch.where(self.free, otherwise, values)


@dataclass(frozen=True, eq=False)
class PositiveMap:
    """A smooth map onto the positive numbers, with the operations that a constraint to given signs needs.

    For complex numbers the sign is that of the real part, which alone is mapped, as in S4D (Gu et al. 2022, arXiv
    2206.11893). Free (unconstrained) entries are not mapped.

    Args:
        size: The map.
        slope: The derivative, from ``x`` and ``size(x)``.
        inverse: The inverse of the map.
    """

    size: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]

    def weight(self, x: Tensor, signs: Signs) -> Tensor:
        """The entries of the weight for any stored entries: ``sign * size(x)``, and ``x`` at free entries."""
        if x.is_complex():
            return torch.complex(self.weight(x.real, signs), x.imag)
        if is_traced() or x.numel() < MANY or are_transforms_active() or is_recorded() or has_tangent(x):
            return self._weight(x, signs)
        weight: Tensor = _Large.apply(x, self, signs)  # type: ignore[no-untyped-call]
        return weight

    def _weight(self, x: Tensor, signs: Signs) -> Tensor:
        return signs.where_bound(signs.times(self.size(x)), x)

    def excess(self, weight: Tensor, signs: Signs) -> Tensor:
        """The distance of each entry from ``sign`` times the range of the map; 0 at free entries."""
        size = signs.times(weight.real)
        smallest, largest = self._limits(size)
        return signs.where_bound(torch.maximum(smallest - size, size - largest).clamp(min=0), torch.zeros_like(size))

    def project(self, weight: Tensor, signs: Signs) -> Tensor:
        """Replace zeros and wrong signs by ``sign * max(|w|, FLOOR)``; clamp absolute values to results of the map."""
        if weight.is_complex():
            return torch.complex(self.project(weight.real, signs), weight.imag)
        size = signs.times(weight)
        size = torch.where(size > 0, size, (-size).clamp(min=FLOOR)).clamp(*self._limits(size))
        return signs.where_bound(signs.times(size), weight)

    def invert(self, weight: Tensor, signs: Signs) -> Tensor:
        """The stored entries for entries in the set: the inverse of `weight`."""
        if weight.is_complex():
            return torch.complex(self.invert(weight.real, signs), weight.imag)
        return signs.where_bound(self.inverse(signs.times(weight)), weight)

    def rounding(self, weight: Tensor, signs: Signs) -> Tensor:
        """For each entry in the set, a bound on the absolute error of the round trip: `invert`, then `weight`."""
        size = weight.real.abs()
        error = (1 + size.log().abs()) * torch.finfo(weight.dtype).eps * size
        return signs.where_bound(error, torch.zeros_like(error))

    def _limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number that ``size`` gives, in the dtype and on the device of ``like``."""
        ends = torch.finfo(like.dtype)
        smallest, largest = self.size(like.new_tensor([ends.min, ends.max])).unbind()
        return smallest, largest


def _slope_of_exp(x: Tensor, size: Tensor) -> Tensor:
    beyond = (x - bound_of(x)).relu()  # 0 below the bound; there the slope equals the value
    return size / ((1 + beyond) * (1 + beyond.log1p())) * (size > torch.finfo(x.dtype).tiny)


def _slope_of_softplus(x: Tensor, size: Tensor) -> Tensor:
    return torch.sigmoid(x) * (size > torch.finfo(x.dtype).tiny)


EXP = PositiveMap(exp, _slope_of_exp, log)
SOFTPLUS = PositiveMap(softplus, _slope_of_softplus, softplus_inverse)


class _Large(torch.autograd.Function):
    """`PositiveMap.weight` with few passes over memory: applies signs in place, takes the gradient from the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: PositiveMap, signs: Signs) -> Tensor:
        ctx.is_exp = own is EXP and is_plain(x)
        size = x.exp() if ctx.is_exp else own.size(x)
        if isinstance(signs.sign, Tensor):
            size.mul_(signs.sign)
        elif signs.sign == -1:
            size.neg_()
        weight = signs.where_bound(size, x)
        ctx.own, ctx.signs = own, signs
        ctx.save_for_backward(x, weight)
        return weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        own, signs = ctx.own, ctx.signs
        if is_differentiated(grad):
            with torch.enable_grad():
                (found,) = torch.autograd.grad(own._weight(x, signs), x, grad, create_graph=True)
            return found, None, None
        found = weight * grad if ctx.is_exp else signs.times(own.slope(x, weight.abs())).mul_(grad)
        return signs.where_bound(found, grad), None, None
