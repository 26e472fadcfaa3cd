"""How far dense results are off by rounding, measured where one run of them does not tell."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tools.campaign.reference import double

__all__ = ["Run", "measured"]

PROBES = 8
Run = Callable[[Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""What dense formulas give for an input and what is stored: results by name."""


def measured(run: Run, input: Tensor, stored: dict[str, Tensor]) -> dict[str, float]:
    """How far dense results are off, at most, where what is stored is a unit in the last place away.

    Where sums of large terms cancel, as in a saturated attention or before a `tanh`, one run may be off by a twentieth
    of what the next one is. Nothing is wider than double precision, so there the distance from what is stored tells.
    """
    wide = input.dtype == torch.float64
    generator, most = torch.Generator().manual_seed(0), dict[str, float]()
    for _ in range(PROBES):
        beside = {name: _beside(x, generator) for name, x in stored.items()}
        exact = run(input, stored) if wide else run(double(input), {name: _double(x) for name, x in beside.items()})
        for name, result in run(input, beside).items():
            most[name] = max(most.get(name, 0.0), _apart(result, exact[name]))
    return most


def _double(x: Tensor) -> Tensor:
    return double(x).requires_grad_(x.requires_grad)


def _beside(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each number a unit in the last place up or down."""
    signs = torch.randint(0, 2, x.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return (x.detach() * (1 + torch.finfo(x.dtype).eps * signs).to(x.dtype)).requires_grad_(x.requires_grad)


def _apart(result: Tensor, exact: Tensor) -> float:
    """The largest finite distance; a number that single precision does not hold tells nothing."""
    distances: list[float] = (result.detach().to(exact) - exact.detach()).abs().flatten().tolist()
    return max(filter(math.isfinite, distances), default=0.0)
