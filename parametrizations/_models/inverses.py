"""The inverse of a sequence of parametrizations: the stored tensors for a given weight."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from parametrizations.parametrization import Parametrization

TOLERANCE = 1e-3
"""Largest allowed error of a third-party ``step(step.right_inverse(weight))``, relative to the largest entry."""


class Unreachable(ValueError):
    """A third-party parametrization cannot produce a weight. The caller adds advice to the message."""

    def __init__(self, step: nn.Module, reason: str) -> None:
        super().__init__(f"{type(step).__name__} {reason}")
        self.step = step


def inverted(parametrizations: Sequence[nn.Module], weight: Tensor, *, project: bool) -> Any:
    """The stored tensors from which a sequence of parametrizations computes ``weight``.

    Args:
        parametrizations: In order of application. Third-party ones may write into their buffers, as the
            inverse of ``orthogonal`` does.
        weight: The weight, ``(out, in)``, in the dtype that the stored tensor should get.
        project: If true, project onto each set, and skip steps without an inverse, as registering does. If false,
            follow ``on_infeasible``, and refuse steps without an inverse or with an inexact one.

    Returns:
        A tensor, or a sequence of tensors if the first step stores several.

    Raises:
        Unreachable: If a third-party parametrization refuses the weight; without ``project``, also if it lacks an exact
            inverse.
        ValueError: If a parametrization of this library refuses the weight.
    """
    value: Any = weight
    with torch.inference_mode(False), torch.no_grad():
        for step in reversed(parametrizations):
            value = _inverse(step, value, project)
    return value


def _inverse(step: nn.Module, value: Tensor, project: bool) -> Any:
    if isinstance(step, Parametrization):
        return step.right_inverse(step.project(value) if project else value)
    try:
        inverse: Callable[[Tensor], Any] = getattr(step, "right_inverse", _missing)
        stored = inverse(value)
    except NotImplementedError:
        if project:  # as PyTorch does when it registers
            return value
        raise Unreachable(step, "needs a right_inverse to compute its input from this weight. Got none.") from None
    except (ValueError, RuntimeError) as error:
        raise Unreachable(step, f"refuses this weight in right_inverse: {error}") from error
    if not project:
        require_round_trip(step, stored, value)
    return stored


def _missing(value: Tensor) -> Tensor:
    raise NotImplementedError


def require_round_trip(step: nn.Module, stored: Any, weight: Tensor) -> None:
    """Raise `Unreachable` if a third-party parametrization maps ``stored`` to another weight, as spectral_norm may."""
    if weight.is_meta or weight.numel() == 0:
        return
    twin = copy.deepcopy(step)  # a forward pass may change its state
    try:
        output = twin(stored) if isinstance(stored, Tensor) else twin(*stored)
    except TypeError as error:
        raise Unreachable(step, f"needs to accept the result of its right_inverse. Got {error}.") from error
    distance = (output - weight).abs().max().item()
    if not distance <= allowed_error(weight):
        raise Unreachable(step, f"needs an exact inverse. Got an error of {distance:.2g} after a round trip.")


def allowed_error(weight: Tensor) -> float:
    """The largest absolute error of the round trip through a third-party parametrization."""
    relative = max(TOLERANCE, 4 * torch.finfo(weight.dtype).eps)  # bfloat16 has two to three digits
    return relative * weight.abs().max().item() if weight.numel() else 0.0
