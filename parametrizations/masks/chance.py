"""Masks that are drawn."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from parametrizations.masks.arguments import keep, require_generator, share
from parametrizations.masks.rule import MaskRule

__all__ = ["random"]


def random(density: float, *, generator: torch.Generator | None = None) -> MaskRule:
    """Keep entries drawn uniformly, exactly ``round(density * out * in)`` of them.

    Args:
        density: The share that is kept, above 0 and at most 1.
        generator: Where the draws come from, on any device; torch's default one on the CPU if None. On
            several machines give each the same seed: a mask is not broadcast.

    Raises:
        ValueError: If ``density`` is out of range.

    Example:
        >>> rule = random(0.25, generator=torch.Generator().manual_seed(0))
        >>> int(rule(torch.empty(8, 6)).sum())
        12
    """
    density = share("random", density)
    require_generator("random", generator)
    return MaskRule(f"random({density})", partial(_random, density, generator))


def _random(density: float, generator: torch.Generator | None, weight: Tensor) -> Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    kept = torch.randperm(weight.numel(), generator=generator, device=device)
    return keep(weight, kept[: round(density * weight.numel())])
