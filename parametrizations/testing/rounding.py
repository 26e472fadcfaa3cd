"""How far apart two ways to compute the same product may be: the forward error bound of a sum.

A computed sum of n products is off by at most n roundings of the sum of their absolute values, whatever the order
(Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1). So what is allowed follows the sizes that
are added, not the size of the result, from which they may cancel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations.testing.subject import outcome_of

__all__ = ["rounding_of"]

PROBES = 4


def rounding_of(parametrization: Any, input: Tensor, x: Tensor, bias: Tensor | None) -> list[Tensor]:
    """What rounding explains between two computations of ``F.linear(input, parametrization(x), bias)``.

    Returns:
        A bound for each entry of what `outcome_of` gives: the output, and the gradients of input, ``x`` and bias.
    """
    sizes = [tensor.detach().abs().double() for tensor in (input, parametrization(x), bias) if tensor is not None]
    output, of_input, of_weight, *of_bias = outcome_of(F.linear, sizes)
    terms = sum(of_weight.shape) + of_input.shape[:-1].numel()
    relative = _relative(x.dtype, terms)
    return [relative * size for size in (output, of_input, _through(parametrization, x, of_weight), *of_bias)]


def _relative(dtype: torch.dtype, terms: int) -> float:
    """Products in half precision are added in float32, and rounded a few times on the way from output to gradient."""
    own = torch.finfo(dtype).eps
    return 4 * own + terms * min(own, torch.finfo(torch.float32).eps) * (2 if dtype.is_complex else 1)


def _through(parametrization: Any, x: Tensor, of_weight: Tensor) -> Tensor:
    """The sizes of the weight's gradient as they reach ``x``: the root mean square over random signs.

    That is exact where an entry of ``x`` acts on one of the weight, and does not cancel where it acts on several.
    """
    x, largest = x.detach().clone().requires_grad_(), of_weight.max() if of_weight.numel() else of_weight.sum()
    generator, total = torch.Generator().manual_seed(0), torch.zeros_like(x.detach().abs().double())
    for _ in range(PROBES):
        signs = torch.randint(0, 2, of_weight.shape, generator=generator, device="cpu").to(of_weight) * 2 - 1
        probe = (signs * of_weight / largest.clamp(min=1)).to(x)
        (reached,) = torch.autograd.grad(parametrization(x), x, probe)
        total += reached.abs().double().square() / PROBES
    return total.sqrt() * largest.clamp(min=1)
