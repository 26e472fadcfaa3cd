"""What is compared: which constraint, at which size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Case", "cases", "mask_of"]


@dataclass(frozen=True)
class Case:
    """One size to compare at; ``density`` is used by `MaskedSparse` alone."""

    constraint: str
    n: int
    batch: int
    density: float = 0.0

    def __str__(self) -> str:
        density = f", {self.density:.1%}" if self.density else ""
        return f"{self.constraint} n={self.n}, batch={self.batch}{density}"

    @property
    def fits_densely(self) -> bool:
        """Whether the contestants that build a dense weight can take part."""
        return self.n <= 8192


# Batches by features, and densities by batch.
ALL = (1, 32, 128, 512)
BATCHES = {64: ALL, 128: (32,), 256: ALL, 512: (32,), 1024: ALL, 2048: (32,), 4096: ALL}
QUICK_BATCHES = {256: (32,), 1024: (32,), 4096: (128,)}

FEW = (0.001, 0.01, 0.1, 0.5)
DENSITIES = {1: FEW, 32: (0.001, 0.01, 0.05, 0.1, 0.2, 0.5), 128: FEW, 512: FEW}
QUICK_DENSITIES = {32: (0.01, 0.1), 128: (0.01, 0.1)}

BEYOND_DENSE = (Case("Diagonal", 2**17, 8), Case("Diagonal", 2**20, 8))


def cases(*, quick: bool) -> Iterator[Case]:
    """Every case of a full run, or of a quick one."""
    densities = QUICK_DENSITIES if quick else DENSITIES
    for n, batches in (QUICK_BATCHES if quick else BATCHES).items():
        for batch in batches:
            for constraint in ("ZeroDiagonal", "NegExpDiagonal", "Diagonal"):
                yield Case(constraint, n, batch)
            for density in densities[batch]:
                yield Case("MaskedSparse", n, batch, density)
    yield from BEYOND_DENSE


def mask_of(case: Case) -> Tensor:
    """The same random mask at every call."""
    return torch.rand(case.n, case.n, generator=torch.Generator().manual_seed(0)) < case.density
