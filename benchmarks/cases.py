"""A case: constraint, size, batch, mask, work and threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from parametrizations import masks

__all__ = ["CHAIN", "DENSITIES", "FEATURES", "KINDS", "MASKS", "SINGLE", "SPARSE", "STABLE", "TRIANGLE", "Case"]

FEATURES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
CHAIN = "Diagonal, NegExpDiagonal"
"""The diagonal of S4D and Mamba."""
STABLE = "MaskedSparse, NegExpDiagonal"
"""With a triangular mask: a matrix with negative eigenvalues."""


def _random(density: float) -> Callable[[int], masks.MaskRule]:
    return lambda _: masks.random(density=density, generator=torch.Generator().manual_seed(0))


def _autoregressive(n: int) -> masks.MaskRule:
    """A hidden layer of MADE. The order of its units is free, so the degrees are sorted."""
    generator = torch.Generator().manual_seed(0)
    degrees = torch.randint(1, max(n, 2), (2, n), generator=generator).sort().values
    return masks.autoregressive(*degrees.unbind())


MASKS: dict[str, Callable[[int], masks.MaskRule]] = {
    "0.1 %": _random(0.001),
    "1 %": _random(0.01),
    "5 %": _random(0.05),
    "10 %": _random(0.1),
    "50 %": _random(0.5),
    "block_diagonal(8)": lambda _: masks.block_diagonal(8),
    "banded(64, 64)": lambda _: masks.banded(64, 64),
    "lower_triangular()": lambda _: masks.lower_triangular(),
    "autoregressive": _autoregressive,
}
DENSITIES = tuple(name for name in MASKS if name.endswith("%"))


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        constraint: A class of the package, `CHAIN` or `STABLE`.
        features: Inputs and outputs of the layer.
        batch: Rows of the input.
        mask: A name in `MASKS`, for `MaskedSparse`.
        work: Forward and backward; a loop over time in `torch.nn.utils.parametrize.cached`; or a step with Adam.
        threads: Of the CPU.
    """

    constraint: str
    features: int
    batch: int
    mask: str = ""
    work: Literal["step", "loop", "adam"] = "step"
    threads: int = 2

    @property
    def weight(self) -> str:
        """The constraint and its mask."""
        return f"{self.constraint}, {self.mask}" if self.mask else self.constraint

    def kept(self) -> Tensor:
        """The mask as a boolean tensor, equal at every call."""
        return _kept(self.mask, self.features)


@lru_cache(maxsize=1)  # a mask of 4096 features takes seconds
def _kept(mask: str, features: int) -> Tensor:
    return MASKS[mask](features)(torch.empty(features, features))


SINGLE, SPARSE, TRIANGLE = ("Diagonal", "ZeroDiagonal", "NegExpDiagonal"), "MaskedSparse", "lower_triangular()"
KINDS = ((SINGLE[0], ""), (SINGLE[1], ""), (SINGLE[2], ""), (SPARSE, "10 %"), (STABLE, TRIANGLE))
