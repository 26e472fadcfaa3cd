"""What rules are given, checked; and where the masks that they return are made."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

__all__ = ["home", "integers", "keep", "part", "require_generator", "require_values", "share"]


def home(weight: Tensor) -> torch.device:
    """Where the mask for a weight is made: beside it, if it has values."""
    return torch.device("cpu") if weight.is_meta else weight.device


def keep(weight: Tensor, positions: Tensor) -> Tensor:
    """The mask with the given row-major positions, which may repeat."""
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=home(weight))
    mask[positions.to(mask.device)] = True
    return mask.view(weight.shape)


def integers(name: str, *values: object) -> list[int]:
    """Whole numbers of any library, for the rule of a name."""
    whole = [int(value) for value in values if isinstance(value, Integral) and not isinstance(value, bool)]
    if len(whole) < len(values):
        got = ", ".join(type(value).__name__ for value in values)
        raise TypeError(f"{name} needs whole numbers. Got {got}. Convert them with int().")
    return whole


def share(name: str, density: object) -> float:
    """The share of a weight that the rule of a name keeps: a number above 0 and at most 1."""
    if not isinstance(density, Real) or isinstance(density, bool):
        raise TypeError(f"{name} needs a density that is a number. Got {type(density).__name__}. Pass a float.")
    if not 0 < float(density) <= 1:
        raise ValueError(f"{name} needs a density above 0 and at most 1. Got {density}. 0.1 keeps a tenth.")
    return float(density)


def require_generator(name: str, generator: object) -> None:
    """Refuse what draws nothing, for the rule of a name."""
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            f"{name} needs a torch.Generator or None. Got {type(generator).__name__}. "
            "Seed one: torch.Generator().manual_seed(0)."
        )


def require_values(name: str, weight: Tensor) -> None:
    """Refuse a weight without values, for the rule of a name."""
    if weight.is_meta:
        raise ValueError(
            f"{name} needs the values of the weight. Got a weight on the meta device, which has none. Use "
            "a rule that looks at the shape alone, or materialise the weight first."
        )


def part(name: str, fraction: object) -> float:
    """The part of the kept entries that the rule of a name moves: a number from 0 to 1."""
    if not isinstance(fraction, Real) or isinstance(fraction, bool):
        raise TypeError(f"{name} needs a fraction that is a number. Got {type(fraction).__name__}. Pass a float.")
    if not 0 <= float(fraction) <= 1:
        raise ValueError(f"{name} needs a fraction from 0 to 1. Got {fraction}. 0.3 moves three tenths.")
    return float(fraction)
