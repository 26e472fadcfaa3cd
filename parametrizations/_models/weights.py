"""What a chain of parametrizations gives, and what has to be stored for it to give a weight."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch.chains import build, originals, steps
from parametrizations._torch.parameters import give
from parametrizations.parametrization import Parametrization

__all__ = [
    "Unreachable",
    "allowed_apart",
    "binding",
    "dense_shape",
    "inverted",
    "is_compact",
    "require_given_back",
    "settle",
    "stored_for",
]

GIVEN_BACK = 1e-3
"""How far, relative to the largest entry, a foreign parametrization may be from giving a weight back."""


class Unreachable(ValueError):
    """Nothing that somebody else's parametrization can store gives a weight; the message leaves open what to do."""

    def __init__(self, step: nn.Module, reason: str) -> None:
        super().__init__(f"{type(step).__name__} {reason}")
        self.step = step


def binding(chain: ParametrizationList) -> list[Parametrization]:
    """This library's parametrizations that the weight itself has to obey: those after the last foreign one."""
    known = itertools.takewhile(lambda step: isinstance(step, Parametrization), reversed(steps(chain)))
    return [step for step in known if isinstance(step, Parametrization)][::-1]


def is_compact(chain: ParametrizationList) -> bool:
    """Whether fewer numbers are stored than the weight has."""
    first = steps(chain)[0]
    return isinstance(first, Parametrization) and first.stored_shape.numel() < first._known_shape.numel()


def dense_shape(chain: ParametrizationList) -> torch.Size:
    """The shape of the weight, ``(out, in)``: known to this library's parametrizations, else built if it has values."""
    first, stored = steps(chain)[0], next(iter(originals(chain).values()))
    if isinstance(first, Parametrization):
        return first._known_shape
    return stored.shape if stored.is_meta else build(chain).shape


def stored_for(chain: ParametrizationList, weight: Tensor, *, project: bool) -> dict[str, Tensor]:
    """What has to be stored for the chain to give ``weight``, through all the inverses, by PyTorch's names.

    Args:
        chain: The parametrizations.
        weight: A matrix, ``(out, in)``, of the dtype that is to be stored.
        project: As for `inverted`.

    Raises:
        ValueError: As `inverted` does.
    """
    value = inverted(steps(chain), weight, project=project)
    return dict(zip(originals(chain), [value] if chain.is_tensor else value, strict=True))


def inverted(parametrizations: Sequence[nn.Module], weight: Tensor, *, project: bool) -> Any:
    """What parametrizations that are applied one after the other have to be given for ``weight`` to come out.

    Args:
        parametrizations: Others than this library's may write into their buffers, as orthogonal's inverse does.
        weight: A matrix, ``(out, in)``.
        project: If true, project onto the set, and pass over steps that have no inverse, as registering does. If false,
            follow ``on_infeasible``, and refuse steps that have no inverse, or one that does not give the weight back.

    Returns:
        A tensor, or a sequence of them.

    Raises:
        Unreachable: If somebody else's parametrization refuses the weight, has no inverse, or does not give it back.
        ValueError: If one of this library refuses the weight.
    """
    value: Any = weight
    with torch.inference_mode(False), torch.no_grad():
        for step in reversed(parametrizations):
            value = _inverse(step, value, project)
    return value


def settle(chain: ParametrizationList, weight: Tensor) -> None:
    """Make the chain give ``weight``, or a member of its set that is near; no tensor is written into."""
    taken = stored_for(chain, weight, project=True)
    for name, tensor in originals(chain).items():
        give(tensor, taken[name].to(tensor.device))


def _inverse(step: nn.Module, value: Tensor, project: bool) -> Any:
    if isinstance(step, Parametrization):
        return step.right_inverse(step.project(value) if project else value)
    try:
        inverse: Callable[[Tensor], Any] = getattr(step, "right_inverse", _missing)
        found = inverse(value)
    except NotImplementedError:
        if project:  # as PyTorch does when it registers
            return value
        raise Unreachable(step, "needs a method right_inverse to give this weight. Got none.") from None
    except (ValueError, RuntimeError) as error:
        raise Unreachable(step, f"cannot start from this weight: {error}") from error
    if not project:
        require_given_back(step, found, value)
    return found


def _missing(value: Tensor) -> Tensor:
    raise NotImplementedError


def require_given_back(step: nn.Module, stored: Any, weight: Tensor) -> None:
    """The inverses of others need not be exact: spectral_norm's divides by a norm that it estimated before.

    Raises:
        Unreachable: If what the inverse gave does not give the weight back.
    """
    if weight.is_meta or weight.numel() == 0:
        return
    twin = copy.deepcopy(step)  # it may count, or keep, what it is called with
    try:
        given = twin(stored) if isinstance(stored, Tensor) else twin(*stored)
    except TypeError as error:
        raise Unreachable(step, f"needs to take what its inverse gives. Got {error}.") from error
    apart = (given - weight).abs().max().item()
    if not apart <= allowed_apart(weight):
        raise Unreachable(
            step, f"needs to give the weight back that its inverse is shown. Got one that is {apart:.2g} away."
        )


def allowed_apart(weight: Tensor) -> float:
    """How far a foreign parametrization may be from giving a weight back."""
    relative = max(GIVEN_BACK, 4 * torch.finfo(weight.dtype).eps)  # bfloat16 has two to three digits
    return relative * weight.abs().max().item() if weight.numel() else 0.0
