"""Adding a product to a part of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_product"]


def add_product(output: Tensor, left: Tensor, right: Tensor) -> None:
    """``output += left @ right``, in place; in the dtype of the output where that is wider.

    ``FlopCounterMode`` does not know ``addmm_``, and compilers want no ``out`` that is a part.
    """
    if output.dtype != left.dtype:  # or each part would be rounded on its own
        left, right = left.to(output.dtype), right.to(output.dtype)
    if torch.compiler.is_compiling():
        output.addmm_(left, right)
    else:
        torch.addmm(output, left, right, out=output)
