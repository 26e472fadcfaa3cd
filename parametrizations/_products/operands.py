"""The operands of a constraint's own product: their dtype and layout, and the checks that `nn.Linear` would make."""

from __future__ import annotations

import torch
from torch import Tensor

from parametrizations._torch.private import is_autocast_anywhere, is_traced

AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind))
"""Device types with autocast; the meta device does not support it."""
SHARED = 2**15
"""PyTorch copies tensors with fewer entries on one thread in any case, batched or not."""


def index_dtype(largest: int) -> torch.dtype:
    """The smallest index dtype that holds all numbers up to ``largest``: int32 or int64."""
    return torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a product with ``x``: the autocast dtype if autocast converts ``x``, otherwise that of ``x``."""
    if not is_autocast_anywhere():
        return x.dtype
    kind = x.device.type
    if x.dtype is torch.float64 or not x.is_floating_point() or kind not in AUTOCAST:
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def has_rows(input: Tensor) -> bool:
    """Whether the input is a strided tensor, as `rows_of` needs; `nn.Linear` also takes sparse and nested tensors."""
    return input.layout is torch.strided and not input.is_nested


def rows_of(input: Tensor) -> Tensor:
    """``(*, in)`` as ``(rows, in)``, also for ``in == 0``, for which `reshape` cannot infer the number of rows."""
    if input.dim() == 2:
        return input
    return input.unsqueeze(0) if input.dim() == 1 else input.flatten(0, -2)


def transposed_copy(matrix: Tensor) -> Tensor:
    """``matrix.mT``, contiguous.

    PyTorch copies a transposed matrix on one thread, but a batch of matrices, even of one, on all threads. The batch
    takes half the time for 128 x 4096 on two threads (measured 2026-11-21, torch 2.13.0, CPU).
    """
    if matrix.numel() < SHARED:
        return matrix.mT.contiguous()
    return matrix.mT.unsqueeze(0).contiguous().squeeze(0)


def require_operands(input: Tensor, x: Tensor, bias: Tensor | None, in_features: int) -> None:
    """Reject operands that an elementwise or reshaping product would silently broadcast or convert.

    Raises:
        RuntimeError: As `nn.Linear`, if the width of the input, or the dtype or device of the input or the bias, does
            not fit.
    """
    if is_traced() or _is_usual(input, x, bias, in_features):
        return
    if input.dim() == 0 or input.shape[-1] != in_features:
        raise RuntimeError(
            f"A layer with {in_features} inputs needs an input of shape (*, {in_features}). "
            f"Got shape {tuple(input.shape)}. Check the width of the layer before it."
        )
    _require_kind("an input", input, x)
    if bias is not None:
        _require_kind("a bias", bias, x)


def _is_usual(input: Tensor, x: Tensor, bias: Tensor | None, in_features: int) -> bool:
    """Whether the operands have the dtype and device of ``x``. Most calls need only this check, for speed."""
    dtype, device = x.dtype, x.device
    return (
        input.dtype is dtype
        and input.device == device
        and (bias is None or (bias.dtype is dtype and bias.device == device))
        and input.dim() > 0
        and input.shape[-1] == in_features
    )


def _require_kind(what: str, tensor: Tensor, x: Tensor) -> None:
    fits = tensor.dtype == x.dtype or product_dtype(tensor) == product_dtype(x)
    if tensor.device != x.device or not fits:
        raise RuntimeError(
            f"A layer needs {what} with the dtype and device of its weight, {x.dtype} on {x.device}. "
            f"Got {tensor.dtype} on {tensor.device}. Convert one of them with .to()."
        )
