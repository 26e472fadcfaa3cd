"""What a fused product checks first: that its input fits, as `nn.Linear` would."""

from __future__ import annotations

from torch import Tensor

from parametrizations._products.choice import product_dtype
from parametrizations._torch.private import is_traced

__all__ = ["require_input"]


def require_input(input: Tensor, x: Tensor, in_features: int) -> None:
    """Refuse what an element-wise or reshaping product would broadcast or convert in silence.

    Args:
        input: ``(*, in)``.
        x: The stored tensor.
        in_features: The number of inputs, ``in``.

    Raises:
        RuntimeError: If the input's width, dtype or device does not fit: the type that `nn.Linear` raises.
    """
    if is_traced():
        return
    if input.dim() == 0 or input.shape[-1] != in_features:
        raise RuntimeError(
            f"A layer with {in_features} inputs needs an input of shape (*, {in_features}). "
            f"Got shape {tuple(input.shape)}. Check the width of what comes before it."
        )
    if input.device != x.device or product_dtype(input) != product_dtype(x):
        raise RuntimeError(
            f"A layer needs an input of its own dtype and device, {x.dtype} on {x.device}. "
            f"Got {input.dtype} on {input.device}. Convert the input or the layer with .to()."
        )
