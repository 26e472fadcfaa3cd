"""Which parametrizations came with this library, and which the model had before."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch.chains import steps
from parametrizations.parametrization import Parametrization

__all__ = ["claim", "foreign_steps", "is_constrained_by_us"]

_CLAIMED = "attached_by_register"


def claim(chain: ParametrizationList) -> None:
    """Write down that the last parametrization of a chain was attached by this library, whoever wrote it."""
    setattr(chain, _CLAIMED, [*getattr(chain, _CLAIMED, []), len(chain) - 1])


def foreign_steps(chain: ParametrizationList) -> list[nn.Module]:
    """The parametrizations that are neither of this library nor attached by it, in the order they are applied."""
    claimed: list[int] = getattr(chain, _CLAIMED, [])
    return [
        step
        for place, step in enumerate(steps(chain))
        if place not in claimed and not isinstance(step, Parametrization)
    ]


def is_constrained_by_us(chain: ParametrizationList) -> bool:
    """Whether any of the parametrizations came with this library."""
    return len(foreign_steps(chain)) < len(chain)
