"""Compare tensors bit for bit, or to the accuracy of a dense product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["everything", "held", "near", "same"]


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal bit for bit: NaN equals itself, and 0 differs from -0."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(_bytes(one), _bytes(other))


def near(actual: Tensor, plain: Tensor, exact: Tensor, measured: float = 0.0) -> bool:
    """Whether a result is as accurate as dense products in its dtype.

    Args:
        actual: The result.
        plain: The dense result in the same dtype.
        exact: The dense result in double precision.
        measured: The largest error observed for dense results in this dtype; ``plain`` may be more accurate by luck.
    """
    if actual.shape != exact.shape or actual.dtype != plain.dtype:
        return False
    if not actual.numel() or not bool(plain.isfinite().all()):
        return True
    # A double sum of terms around 1 may cancel, and there is no wider dtype to measure it.
    scale = exact.abs().max().clamp(min=1.0 if plain.dtype == exact.dtype else 0.0)
    off = (plain.to(exact) - exact).abs().max().clamp(min=measured)
    allowed = 64 * torch.finfo(plain.dtype).eps * scale + 8 * off
    return bool((actual.to(exact) - exact).abs().max() <= allowed + torch.finfo(plain.dtype).tiny)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8)


def everything(model: nn.Module) -> list[Any]:
    """A snapshot of each module's class and attributes, and its tensors with their gradients."""
    found: list[Any] = []
    for name, module in model.named_modules():
        found += [name, id(module), type(module), module.training, list(vars(module))]
        found += [len(value) for value in vars(module).values() if isinstance(value, dict | list | set)]
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found += [key, id(tensor), tensor.requires_grad, _copy(tensor), _copy(tensor.grad)]
        found.append(_copy(_extra(module)))
    return found


def _extra(module: nn.Module) -> Any:
    own = type(module).get_extra_state is not nn.Module.get_extra_state
    return module.get_extra_state() if own else None


def held(optimizer: torch.optim.Optimizer | None) -> list[Any]:
    """A snapshot of an optimizer's parameters and their state."""
    if optimizer is None:
        return []
    groups = [id(tensor) for group in optimizer.param_groups for tensor in group["params"]]
    entries = [(id(key), name, value) for key, state in optimizer.state.items() for name, value in state.items()]
    return [*groups, *(part for key, name, value in entries for part in (key, name, _copy(value)))]


def _copy(value: Any) -> Any:
    """The bits of a tensor, in a type that supports ``==``."""
    if not isinstance(value, Tensor):
        return value
    return str(value.dtype), tuple(value.shape), _bytes(value).numpy().tobytes()
