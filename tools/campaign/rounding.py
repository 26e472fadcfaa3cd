"""The rounding error of dense results, measured if a single run is not representative."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tools.campaign.reference import double

__all__ = ["Run", "measured"]

PROBES = 8
Run = Callable[[Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""Dense formulas: they map an input and the stored tensors to results by name."""


def measured(run: Run, input: Tensor, stored: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of dense results after stored tensors are perturbed by a unit in the last place.

    If sums of large terms cancel, as in a saturated attention or before a `tanh`, one run may have a twentieth of the
    next run's error. No dtype is wider than double precision, so double results are compared with the unperturbed ones.
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
    """Move each number a unit in the last place up or down."""
    signs = torch.randint(0, 2, x.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return (x.detach() * (1 + torch.finfo(x.dtype).eps * signs).to(x.dtype)).requires_grad_(x.requires_grad)


def _apart(result: Tensor, exact: Tensor) -> float:
    """The largest finite distance. Numbers beyond the range of single precision are ignored."""
    distances: list[float] = (result.detach().to(exact) - exact.detach()).abs().flatten().tolist()
    return max(filter(math.isfinite, distances), default=0.0)
