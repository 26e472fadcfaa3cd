"""Smooth maps from all numbers onto the positive numbers, for `NegExpDiagonal`, `Signed` and your own constraints."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._torch.transforms import may_look_at_values

__all__ = ["exp", "log", "softplus", "softplus_inverse"]

BOUND = {torch.float16: 8.0, torch.bfloat16: 80.0, torch.float32: 80.0, torch.float64: 700.0}
"""By dtype: above this ``x``, the `exp` below grows as a logarithm, to keep values and gradients far from overflow."""

PLAIN = {dtype: min(bound, -math.log(torch.finfo(dtype).tiny) - 0.1) for dtype, bound in BOUND.items()}
"""By dtype: for ``x`` below this absolute value, `exp` of this file equals `torch.exp`, and is a normal number."""

FEW = 2**12


def exp(x: Tensor) -> Tensor:
    """An exponential with a finite and positive value for every finite number.

    ``exp(x)`` up to ``c`` (8 in float16, 80 in bfloat16 and float32, 700 in float64), and
    ``exp(c) (1 + log(1 + x - c))`` above, with the same value and slope at ``c``; never below the smallest normal
    number. `torch.exp` alone overflows and underflows. In half precision it is computed in float32.

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
    if is_plain(x):
        return x.exp()
    bound, wide = bound_of(x), _precise(x)
    # Below the bound the second factor is exactly 1. At the bound the gradient of relu is 0, so the first factor must
    # have the full gradient there. `where` has it; the gradient of clamp there depends on the release of torch.
    size = torch.where(wide > bound, bound, wide).exp() * (1 + (wide - bound).relu().log1p())
    return size.to(x.dtype).clamp(min=torch.finfo(x.dtype).tiny)


def log(size: Tensor) -> Tensor:
    """The inverse of `exp`: ``exp(log(size))`` has a relative error of at most ``1 + |log size|`` machine epsilons.

    Args:
        size: Positive finite numbers, a tensor of any shape and a real floating dtype.

    Returns:
        A tensor of the same shape and dtype.

    Raises:
        TypeError: If the dtype is another one.

    Example:
        >>> log(exp(torch.tensor([-3.0, 2.0])))
        tensor([-3.,  2.])
    """
    bound = bound_of(size)
    wide = _precise(size)
    unit = wide.new_full((), bound).exp()
    beyond = bound - 1 + (wide / unit - 1).exp()
    found = torch.where(wide <= unit, wide.log(), beyond).clamp(max=torch.finfo(size.dtype).max)
    return found.to(size.dtype)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, with a positive value for every finite number.

    It grows as ``x``, so large entries train with the same steps as unconstrained ones. `F.softplus` alone is 0 far
    below 0, such as at -104 in float32. In half precision it is computed in float32.

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
    bound_of(x)  # refuses dtypes outside `BOUND`
    size = F.softplus(_precise(x), threshold=40.0).to(x.dtype)
    return size.clamp(min=torch.finfo(x.dtype).tiny)


def softplus_inverse(size: Tensor) -> Tensor:
    """The inverse of `softplus`: a round trip has a relative error of at most ``1 + |log size|`` machine epsilons.

    Args:
        size: Positive finite numbers, a tensor of any shape and a real floating dtype.

    Returns:
        A tensor of the same shape and dtype.

    Raises:
        TypeError: If the dtype is another one.

    Example:
        >>> softplus_inverse(softplus(torch.tensor([-3.0, 2.0])))
        tensor([-3.,  2.])
    """
    bound_of(size)  # refuses dtypes outside `BOUND`
    wide = _precise(size)
    return (wide + (-torch.expm1(-wide)).log()).to(size.dtype)


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def bound_of(x: Tensor) -> float:
    if x.dtype not in BOUND:
        raise TypeError(
            f"A positive map needs a stored tensor of a real floating dtype, float16 to float64. Got {x.dtype}. "
            "Convert the layer back with .to()."
        )
    return BOUND[x.dtype]


def is_plain(x: Tensor) -> bool:
    """Whether `torch.exp`, in a third of the operations, has the values and gradients of this file's `exp` at ``x``."""
    bound = PLAIN.get(x.dtype)
    if bound is None or not may_look_at_values(x) or not x.numel():
        return False
    values = x.detach()
    # The root of the sum of squares bounds every entry. For few entries it takes half the time of the maximum.
    if x.dim() == 1 and x.numel() < FEW and torch.dot(values, values).item() < bound * bound:
        return True
    least, most = torch.aminmax(values)
    return max(-least.item(), most.item()) < bound
