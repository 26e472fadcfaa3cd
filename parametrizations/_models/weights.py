"""What a chain of parametrizations gives, and what has to be stored for it to give a weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch.chains import build, originals, steps
from parametrizations._torch.parameters import give
from parametrizations.parametrization import Parametrization

__all__ = ["dense_shape", "is_compact", "settle", "stored_for"]


def is_compact(chain: ParametrizationList) -> bool:
    """Whether fewer numbers are stored than the weight has."""
    first = steps(chain)[0]
    return isinstance(first, Parametrization) and first.stored_shape.numel() < first.known_shape.numel()


def dense_shape(chain: ParametrizationList) -> torch.Size:
    """The shape of the weight, ``(out, in)``: known to this library's parametrizations, else built if it has values."""
    first, stored = steps(chain)[0], next(iter(originals(chain).values()))
    if isinstance(first, Parametrization):
        return first.known_shape
    return stored.shape if stored.is_meta else build(chain).shape


def stored_for(chain: ParametrizationList, weight: Tensor, *, project: bool) -> dict[str, Tensor]:
    """What has to be stored for the chain to give ``weight``, through all the inverses.

    Args:
        chain: The parametrizations.
        weight: A matrix, ``(out, in)``, of the dtype that is to be stored.
        project: Whether to go to the set from outside, and take a missing inverse for none needed, as registering does;
            else the one follows ``on_infeasible``, and the other is refused.

    Raises:
        ValueError: If a parametrization has no inverse, or refuses the weight.
    """
    value = weight
    with torch.inference_mode(False), torch.no_grad():
        for step in reversed(steps(chain)):
            value = _inverse(step, value, project)
    return dict(zip(originals(chain), [value] if chain.is_tensor else value, strict=True))


def settle(chain: ParametrizationList, weight: Tensor) -> None:
    """Make the chain give ``weight``, or a member of its set that is near; no tensor is written into."""
    taken = stored_for(chain, weight, project=True)
    for name, tensor in originals(chain).items():
        give(tensor, taken[name].to(tensor.device))


def _inverse(step: nn.Module, value: Tensor, project: bool) -> Tensor:
    if isinstance(step, Parametrization):
        return step.right_inverse(step.project(value) if project else value)
    try:
        inverse: Callable[[Tensor], Tensor] = getattr(step, "right_inverse", _missing)
        return inverse(value)
    except NotImplementedError:
        if project:  # as PyTorch does when it registers
            return value
        raise ValueError(
            f"{type(step).__name__} needs a method right_inverse to give this weight. Got none. "
            "Load or assign what it stores."
        ) from None


def _missing(value: Tensor) -> Tensor:
    raise NotImplementedError
