"""`NegExpDiagonal`: a weight whose main diagonal stays negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from parametrizations.diagonals import with_diagonal
from parametrizations.operands import require_input
from parametrizations.parametrization import FLOATING, Parametrization
from parametrizations.paths import Path, replaced_diagonal_path
from parametrizations.replaced_diagonal import replaced_diagonal_linear
from parametrizations.transforms import may_look_at_values

__all__ = ["FLOOR", "NegExpDiagonal"]

FLOOR = 1e-4
"""Smallest absolute value that a diagonal entry gets when it was not negative: a normal number in every
dtype, small beside any usual weight, and large enough for a gradient to move it (``exp`` has the gradient
``|w|``)."""

# Where -exp(x) is continued by a logarithm: far from overflow, for the gradient's sake too.
_BOUND = {torch.float16: 8.0, torch.bfloat16: 80.0, torch.float32: 80.0, torch.float64: 700.0}

# Above these exp is a normal number.
_LOWEST = {dtype: math.log(torch.finfo(dtype).tiny) + 0.1 for dtype in _BOUND}


class NegExpDiagonal(Parametrization):
    """A weight whose main diagonal is finite and strictly negative for every finite stored value.

    ``weight[i, i] = -exp(x[i, i])``, ``weight[i, j] = x[i, j]`` for ``i != j``. Stored and trained is
    ``x``, of the weight's shape ``(out, in)``, of any aspect, in float16, bfloat16, float32 or float64.

    ``exp`` alone overflows and underflows. So from ``c`` on (8 in float16, 80 in bfloat16 and float32,
    700 in float64) the diagonal is ``-exp(c) (1 + log(1 + x - c))``, which joins with the same value and
    slope, and it never comes closer to zero than the smallest normal number. Its gradient is finite
    everywhere, and non-zero wherever the diagonal is not at that number.

    Registering keeps each diagonal entry ``w`` that is negative to a relative error of
    ``1 + |log |w||`` machine epsilons. Any other becomes ``-max(|w|, 1e-4)``, a retraction rather than a
    projection: the nearest negative number does not exist, and one next to zero would not train. What
    is closer to zero, or larger, than the map reaches goes to the end of its range. Assigning such
    entries raises instead, unless ``on_infeasible="project"``. Entries off the diagonal stay bit for bit.

    Limits: a negative diagonal alone does *not* make a matrix stable; registered on top of a
    lower-triangular `MaskedSparse` it does, since the eigenvalues are then the diagonal. Weight decay on
    ``x`` pulls the diagonal to -1, not to 0; exempt ``x`` from decay where that matters, as the code
    of Mamba does with its ``A_log`` (Gu and Dao 2023, arXiv 2312.00752; ``mamba_simple.py``).

    Args:
        on_infeasible: See `Parametrization`.
        product: See `Parametrization`.

    Raises:
        TypeError: When attached or assigned; see `Parametrization.right_inverse`.
        ValueError: Likewise.

    Example:
        >>> from torch import nn
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.constant_(layer.weight, 0.5)
        >>> _ = register_parametrization(layer, "weight", NegExpDiagonal())
        >>> print(layer.weight.detach())
        tensor([[-0.5000,  0.5000],
                [ 0.5000, -0.5000]])
    """

    needs = "every entry on the main diagonal to be negative, and no larger than its dtype can train"
    dtypes = FLOATING

    @override
    def forward(self, x: Tensor) -> Tensor:
        return with_diagonal(x, -_magnitude(x.diagonal()))

    @override
    def path(self, x: Tensor) -> Path:
        return replaced_diagonal_path(x, self.product)

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        plain = _is_plain_exp(x)
        if self.path(x).name == "dense":
            return F.linear(input, x.diagonal_scatter(-x.diagonal().exp()) if plain else self(x), bias)
        require_input(input, x, x.shape[1])
        return replaced_diagonal_linear(input, x, bias, _plain_diagonal if plain else _diagonal)

    @override
    def excess(self, weight: Tensor) -> Tensor:
        diagonal = weight.diagonal()
        smallest, largest = _range(diagonal)
        outside = torch.maximum(diagonal + smallest, -diagonal - largest).clamp(min=0)
        return torch.zeros_like(weight).diagonal_scatter(outside)

    @override
    def project(self, weight: Tensor) -> Tensor:
        diagonal = weight.diagonal()
        smallest, largest = _range(diagonal)
        size = torch.where(diagonal < 0, -diagonal, diagonal.clamp(min=FLOOR))
        return weight.diagonal_scatter(-size.clamp(smallest, largest))

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return weight.diagonal_scatter(_logarithm(-weight.diagonal()))

    @override
    def rounding(self, weight: Tensor) -> Tensor:
        diagonal = weight.diagonal()
        epsilons = (1 + diagonal.abs().log().abs()) * torch.finfo(weight.dtype).eps
        return torch.zeros_like(weight).diagonal_scatter(epsilons * diagonal.abs())


def _magnitude(x: Tensor) -> Tensor:
    """``exp``, continued beyond the bound, at least the smallest normal number."""
    if x.dtype not in _BOUND:
        raise TypeError(
            f"NegExpDiagonal needs a stored tensor of a real floating dtype, float16 to float64. Got {x.dtype}. "
            "Convert the layer back with .to()."
        )
    bound = _BOUND[x.dtype]
    # Below the bound the second factor is exactly 1. At the joint the gradient of relu is 0, so the first factor has to
    # have the whole of it; that of clamp is 1 or 0 there, by the release of torch.
    size = torch.where(x > bound, bound, x).exp() * (1 + (x - bound).relu().log1p())
    if size.dtype != x.dtype:  # autocast on CUDA computes exp in float32
        size = size.to(x.dtype)
    return size.clamp(min=torch.finfo(x.dtype).tiny)


def _diagonal(x: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of the weight, and its derivative by the stored one."""
    bound, size = _BOUND[x.dtype], _magnitude(x)
    beyond = size.new_tensor(bound).exp() / (1 + (x - bound).relu())
    slope = torch.where(x > bound, beyond, size) * (size > torch.finfo(x.dtype).tiny)
    return -size, -slope


def _plain_diagonal(x: Tensor) -> tuple[Tensor, Tensor]:
    """What `_diagonal` gives where `_is_plain_exp` holds."""
    true = -x.exp()
    return true, true


def _logarithm(size: Tensor) -> Tensor:
    """The inverse of `_magnitude`."""
    bound = _BOUND[size.dtype]
    unit = size.new_tensor(bound).exp()
    beyond = bound - 1 + (size / unit - 1).exp()
    return torch.where(size <= unit, size.log(), beyond).clamp(max=torch.finfo(size.dtype).max)


def _is_plain_exp(x: Tensor) -> bool:
    """Whether the map is ``-exp`` for every entry: the same value and gradient by a third of the operations."""
    if not may_look_at_values(x) or not x.numel():
        return False
    smallest, largest = x.detach().diagonal().aminmax()
    return _LOWEST[x.dtype] < smallest.item() and largest.item() < _BOUND[x.dtype]


def _range(like: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest absolute value that `_magnitude` reaches in a dtype."""
    limits = torch.finfo(like.dtype)
    smallest, largest = _magnitude(like.new_tensor([limits.min, limits.max])).unbind()
    return smallest, largest
