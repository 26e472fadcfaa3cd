"""Smooth maps from all numbers onto the positive numbers, for `NegExpDiagonal`, `Signed` and your own constraints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._torch.private import are_transforms_active, is_traced
from parametrizations._torch.transforms import has_tangent, is_differentiated, is_recorded, may_look_at_values

__all__ = ["EXP", "FLOOR", "SOFTPLUS", "PositiveMap", "Signs", "exp", "log", "softplus", "softplus_inverse"]

FLOOR = 1e-4
"""The smallest absolute value that a projected entry with a wrong sign gets: a normal number in every dtype, small
compared with usual weights, and large enough for a gradient to move it (``exp`` has the gradient ``|w|``)."""

BOUND = {torch.float16: 8.0, torch.bfloat16: 80.0, torch.float32: 80.0, torch.float64: 700.0}
"""Above this bound `exp` grows as a logarithm, by dtype. The bound keeps values and gradients far from overflow."""

PLAIN = {dtype: min(bound, -math.log(torch.finfo(dtype).tiny) - 0.1) for dtype, bound in BOUND.items()}
"""Below this absolute value `exp` equals `torch.exp`, and the result is a normal number, by dtype."""

MANY = 2**16
"""With fewer entries, plain autograd takes less time than an autograd function."""


def exp(x: Tensor) -> Tensor:
    """An exponential with a finite and positive value for every finite number.

    ``exp(x)`` up to ``c`` (8 in float16, 80 in bfloat16 and float32, 700 in float64), and
    ``exp(c) (1 + log(1 + x - c))`` above, with the same value and slope at ``c``; never below the smallest normal
    number. `torch.exp` alone overflows and underflows.

    Args:
        x: A tensor of any shape, in float16, bfloat16, float32 or float64.

    Returns:
        A tensor of the same shape and dtype, differentiable to any order.

    Raises:
        TypeError: If the dtype is not one of these.

    Example:
        >>> exp(torch.tensor([0.0, -1000.0, 1000.0])) > 0
        tensor([True, True, True])
    """
    if _is_plain(x):
        return x.exp()
    bound = _bound(x)
    # Below the bound the second factor is exactly 1. At the bound the gradient of relu is 0, so the first factor must
    # have the full gradient there. `where` has it; the gradient of clamp there depends on the release of torch.
    size = torch.where(x > bound, bound, x).exp() * (1 + (x - bound).relu().log1p())
    if size.dtype != x.dtype:  # autocast on CUDA computes exp in float32
        size = size.to(x.dtype)
    return size.clamp(min=torch.finfo(x.dtype).tiny)


def log(size: Tensor) -> Tensor:
    """The inverse of `exp`, for positive finite numbers; to a relative error of ``1 + |log size|`` machine epsilons.

    Example:
        >>> log(exp(torch.tensor([-3.0, 2.0])))
        tensor([-3.,  2.])
    """
    bound = _bound(size)
    unit = size.new_full((), bound).exp()
    beyond = bound - 1 + (size / unit - 1).exp()
    found = torch.where(size <= unit, size.log(), beyond).clamp(max=torch.finfo(size.dtype).max)
    return found.to(size.dtype)  # autocast on CUDA computes log and exp in float32


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, with a positive value for every finite number.

    It grows as ``x``, so large entries train with the same steps as unconstrained ones. `F.softplus` alone is 0 for
    small numbers, such as -104 in float32. In half precision it is computed in float32.

    Args:
        x: A tensor of any shape, in float16, bfloat16, float32 or float64.

    Returns:
        A tensor of the same shape and dtype, differentiable to any order; never below the smallest normal number.

    Raises:
        TypeError: If the dtype is not one of these.

    Example:
        >>> softplus(torch.tensor([-1000.0, 0.0, 1000.0]))
        tensor([1.1755e-38, 6.9315e-01, 1.0000e+03])
    """
    _bound(x)  # refuses other dtypes
    size = F.softplus(_precise(x), threshold=40.0).to(x.dtype)
    return size.clamp(min=torch.finfo(x.dtype).tiny)


def softplus_inverse(size: Tensor) -> Tensor:
    """The inverse of `softplus`, for positive finite numbers; to the same relative error as `log`.

    Example:
        >>> softplus_inverse(softplus(torch.tensor([-3.0, 2.0])))
        tensor([-3.,  2.])
    """
    wide = _precise(size)
    return (wide + (-torch.expm1(-wide)).log()).to(size.dtype)


class Signs(NamedTuple):
    """The signs of entries.

    Args:
        sign: 1 or -1 for all entries, or a tensor of these; arbitrary at free entries.
        free: Which entries are free, as a boolean tensor; None if none is.
    """

    sign: int | Tensor
    free: Tensor | None = None

    def times(self, values: Tensor) -> Tensor:
        """The values with the signs."""
        if isinstance(self.sign, Tensor):
            return values * self.sign
        return values if self.sign == 1 else -values

    def where_bound(self, values: Tensor, otherwise: Tensor) -> Tensor:
        """The values, and the second tensor at free entries."""
        return values if self.free is None else torch.where(self.free, otherwise, values)


@dataclass(frozen=True, eq=False)
class PositiveMap:
    """A smooth map onto the positive numbers, with the set of all numbers that have the given signs.

    For complex numbers the sign is that of the real part, which alone is mapped, as in S4D (Gu et al. 2022, arXiv
    2206.11893). An entry with the sign 0 is free.

    Args:
        size: The map.
        slope: The derivative from ``x`` and ``size(x)``, divided by ``size(x)``.
        inverse: The inverse of the map.

    Example:
        >>> negative = Signs(-1)
        >>> EXP.weight(torch.tensor([0.0, 1.0]), negative)
        tensor([-1.0000, -2.7183])
        >>> EXP.project(torch.tensor([-0.5, 0.0, 2.0]), negative)
        tensor([-5.0000e-01, -1.0000e-04, -2.0000e+00])
    """

    size: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]

    def weight(self, x: Tensor, signs: Signs) -> Tensor:
        """The entries with their signs, for stored entries of any value."""
        if x.is_complex():
            return torch.complex(self.weight(x.real, signs), x.imag)
        return _large(self, x, signs) if x.numel() >= MANY and _is_eager(x) else self._weight(x, signs)

    def _weight(self, x: Tensor, signs: Signs) -> Tensor:
        return signs.where_bound(signs.times(self.size(x)), x)

    def excess(self, weight: Tensor, signs: Signs) -> Tensor:
        """The distance of each entry from the numbers that the map gives."""
        size = signs.times(weight.real)
        smallest, largest = self._limits(size)
        return signs.where_bound(torch.maximum(smallest - size, size - largest).clamp(min=0), torch.zeros_like(size))

    def project(self, weight: Tensor, signs: Signs) -> Tensor:
        """Reflect entries with a wrong sign, to at least `FLOOR`, and clamp all to the range of the map."""
        if weight.is_complex():
            return torch.complex(self.project(weight.real, signs), weight.imag)
        size = signs.times(weight)
        size = torch.where(size > 0, size, (-size).clamp(min=FLOOR)).clamp(*self._limits(size))
        return signs.where_bound(signs.times(size), weight)

    def invert(self, weight: Tensor, signs: Signs) -> Tensor:
        """The stored entries of a member."""
        if weight.is_complex():
            return torch.complex(self.invert(weight.real, signs), weight.imag)
        return signs.where_bound(self.inverse(signs.times(weight)), weight)

    def rounding(self, weight: Tensor, signs: Signs) -> Tensor:
        """The largest error of each entry of a member after storing it."""
        size = weight.real.abs()
        error = (1 + size.log().abs()) * torch.finfo(weight.dtype).eps * size
        return signs.where_bound(error, torch.zeros_like(error))

    def _limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number that the map gives, in the dtype and on the device of a tensor."""
        ends = torch.finfo(like.dtype)
        smallest, largest = self.size(like.new_tensor([ends.min, ends.max])).unbind()
        return smallest, largest


def _slope_of_exp(x: Tensor, size: Tensor) -> Tensor:
    beyond = (x - _bound(x)).relu()  # 0 below the bound, where the result is 1
    return (size > torch.finfo(x.dtype).tiny) / ((1 + beyond) * (1 + beyond.log1p()))


def _slope_of_softplus(x: Tensor, size: Tensor) -> Tensor:
    return -torch.expm1(-size) / size * (size > torch.finfo(x.dtype).tiny)


EXP = PositiveMap(exp, _slope_of_exp, log)
SOFTPLUS = PositiveMap(softplus, _slope_of_softplus, softplus_inverse)


def _large(own: PositiveMap, x: Tensor, signs: Signs) -> Tensor:
    weight: Tensor = _Large.apply(x, own, signs)  # type: ignore[no-untyped-call]
    return weight


class _Large(torch.autograd.Function):
    """`PositiveMap.weight` with few passes over memory: signs in place, and the gradient from the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: PositiveMap, signs: Signs) -> Tensor:
        ctx.is_exp = own is EXP and _is_plain(x)
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
        found = weight * grad if ctx.is_exp else own.slope(x, weight.abs()) * weight * grad
        return signs.where_bound(found, grad), None, None


def _is_eager(x: Tensor) -> bool:
    return not (is_traced() or are_transforms_active() or is_recorded() or has_tangent(x))


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _bound(x: Tensor) -> float:
    if x.dtype not in BOUND:
        raise TypeError(
            f"A positive map needs a stored tensor of a real floating dtype, float16 to float64. Got {x.dtype}. "
            "Convert the layer back with .to()."
        )
    return BOUND[x.dtype]


def _is_plain(x: Tensor) -> bool:
    """Whether `torch.exp` gives the same values and gradients, with a third of the operations."""
    bound = PLAIN.get(x.dtype)
    if bound is None or not may_look_at_values(x) or not x.numel():
        return False
    values = x.detach()
    # The root of the sum of squares bounds every entry, and takes half the time of the maximum.
    flat = values.view(-1) if values.is_contiguous() else values
    squares = torch.dot(flat, flat) if flat.dim() == 1 else values.square().sum()
    return squares.item() < bound * bound or values.abs().max().item() < bound
