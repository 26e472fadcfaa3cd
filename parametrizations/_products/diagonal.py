"""The product with a diagonal matrix: one multiply-add for each output, without a matrix."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._products.operands import product_dtype
from parametrizations._torch.transforms import may_look_at_values

# Measured 2026-11-22, torch 2.13.0, two threads of a shared x86-64 machine.
WIDE = 512
"""From this number of outputs on, ``mul`` and ``add_`` train faster: the gradient of ``addcmul`` has one more pass."""


def diagonal_linear(input: Tensor, x: Tensor, bias: Tensor | None, shape: torch.Size, blocks: int) -> Tensor:
    """``F.linear(input, weight, bias)`` with ``x`` on the main diagonals of the blocks of rows of ``weight``.

    The result has the dtype that `torch.nn.functional.linear` gives, also under autocast. Half precision is computed in
    float32 and rounded once, as in a matrix product.

    Args:
        input: ``(*, in)``.
        x: ``(blocks * min(out / blocks, in),)``.
        bias: ``(out,)``, or None.
        shape: The shape of ``weight``, ``(out, in)``.
        blocks: The number of equal blocks of rows.
    """
    dtype = product_dtype(x)
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    if not input.is_contiguous():  # so that the output is contiguous, as in F.linear
        input = input.contiguous()
    rows = shape[0] // blocks
    input = input if shape[1] <= rows else input.narrow(-1, 0, rows)
    multiply_add = _multiply_add if blocks == 1 else partial(_by_blocks, blocks)
    if x.dtype == dtype == wide:  # nothing to convert
        return multiply_add(input, x, bias, shape)
    bias = None if bias is None else bias.to(dtype).to(wide)
    return multiply_add(input.to(dtype).to(wide), x.to(dtype).to(wide), bias, shape).to(dtype)


def _by_blocks(blocks: int, input: Tensor, x: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
    products = input.unsqueeze(-2) * x.view(blocks, input.shape[-1])
    output = F.pad(products, (0, shape[0] // blocks - input.shape[-1])).flatten(-2)
    return output if bias is None else output + bias


def _multiply_add(input: Tensor, x: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
    """``input * x + bias``; outputs beyond the diagonal get only the bias, or 0 without a bias."""
    further = shape[0] - shape[1]
    if further > 0:
        output = F.pad(input * x, (0, further))
        return output if bias is None else output + bias
    if bias is None:
        return input * x
    if shape[0] >= WIDE and torch.is_grad_enabled() and may_look_at_values(input):
        return (input * x).add_(bias)
    return torch.addcmul(bias, input, x)
