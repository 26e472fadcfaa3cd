"""What a fused product takes, and what it refuses first, as `nn.Linear` would."""

from __future__ import annotations

import torch
from torch import Tensor

from parametrizations._torch.private import is_autocast_anywhere, is_traced

__all__ = ["AUTOCAST", "has_rows", "index_dtype", "product_dtype", "require_operands", "rows_of"]

AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind))
"""Device types that have autocast; the meta device has not."""


def index_dtype(largest: int) -> torch.dtype:
    """The smaller integer dtype that holds every number up to ``largest``."""
    return torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a product with ``x`` is computed: its own, or that of autocast."""
    if not is_autocast_anywhere():
        return x.dtype
    kind = x.device.type
    if x.dtype is torch.float64 or not x.is_floating_point() or kind not in AUTOCAST:
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def has_rows(input: Tensor) -> bool:
    """Whether this is a dense tensor of rows; `nn.Linear` takes sparse and nested ones, too."""
    return input.layout is torch.strided and not input.is_nested


def rows_of(input: Tensor) -> Tensor:
    """``(*, in)`` as ``(rows, in)``, also for rows without entries, which `reshape` cannot count."""
    if input.dim() == 2:
        return input
    return input.unsqueeze(0) if input.dim() == 1 else input.flatten(0, -2)


def require_operands(input: Tensor, x: Tensor, bias: Tensor | None, in_features: int) -> None:
    """Refuse what an element-wise or reshaping product would broadcast or convert in silence.

    Args:
        input: ``(*, in)``.
        x: The stored tensor.
        bias: ``(out,)``, or None.
        in_features: The number of inputs, ``in``.

    Raises:
        RuntimeError: If the input's width, or the dtype or device of the input or the bias, does not fit: the type that
            `nn.Linear` raises.
    """
    if is_traced() or _is_usual(input, x, bias, in_features):
        return
    if input.dim() == 0 or input.shape[-1] != in_features:
        raise RuntimeError(
            f"A layer with {in_features} inputs needs an input of shape (*, {in_features}). "
            f"Got shape {tuple(input.shape)}. Check the width of what comes before it."
        )
    _require_kind("an input", input, x)
    if bias is not None:
        _require_kind("a bias", bias, x)


def _is_usual(input: Tensor, x: Tensor, bias: Tensor | None, in_features: int) -> bool:
    """Whether everything fits as it is: all that most calls have to ask, since the time of a small layer counts."""
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
            f"A layer needs {what} of its own dtype and device, {x.dtype} on {x.device}. "
            f"Got {tensor.dtype} on {tensor.device}. Convert one or the other with .to()."
        )
