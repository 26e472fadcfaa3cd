"""The product with a diagonal matrix: one multiply-add for each output, no matrix at any time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._products.choice import product_dtype

__all__ = ["diagonal_linear"]


def diagonal_linear(input: Tensor, x: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
    """``F.linear(input, weight, bias)`` with ``x`` on the main diagonal of ``weight``.

    Half precision is computed in float32 and rounded once, as a matrix product does.

    Args:
        input: ``(*, in)``.
        x: ``(min(out, in),)``.
        bias: ``(out,)``, or None.
        shape: The shape of ``weight``, ``(out, in)``.

    Returns:
        ``(*, out)``, in the dtype that `torch.nn.functional.linear` gives, also under autocast.
    """
    dtype = product_dtype(x)
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    if not input.is_contiguous():  # or the output has the input's strides, where a matrix product's is contiguous
        input = input.contiguous()
    input = input if shape[1] <= shape[0] else input.narrow(-1, 0, shape[0])
    further = max(shape[0] - shape[1], 0)
    if x.dtype == dtype == wide:  # nothing to convert
        return _multiply_add(input, x, bias, further)
    bias = None if bias is None else bias.to(dtype).to(wide)
    return _multiply_add(input.to(dtype).to(wide), x.to(dtype).to(wide), bias, further).to(dtype)


def _multiply_add(input: Tensor, x: Tensor, bias: Tensor | None, further: int) -> Tensor:
    """``input * x + bias``, with ``further`` outputs that the diagonal does not reach, which get the bias alone."""
    if bias is not None and not further:
        return torch.addcmul(bias, input, x)
    output = F.pad(input * x, (0, further)) if further else input * x
    return output if bias is None else output + bias
