"""What is compared: which constraint, at which size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from parametrizations import masks

__all__ = ["CHAIN", "LOOPS", "SMALL", "STABLE", "TWO_OF_FOUR", "Case", "cases", "mask_of"]

CHAIN = "Diagonal, NegExpDiagonal"
"""The diagonal of S4D and Mamba."""
STABLE = "MaskedSparse, NegExpDiagonal"
"""With a triangular mask, a matrix whose eigenvalues are all negative."""


TWO_OF_FOUR = "n_of_m(2, 4)"
"""What some GPUs multiply by kernels of their own, and no CPU does."""


@dataclass(frozen=True)
class Case:
    """One size to compare at.

    ``density`` and ``structure``, a name in `STRUCTURES`, are used by `MaskedSparse` alone. ``work`` is a forward and
    backward pass, the forward pass alone, or a loop over time inside `torch.nn.utils.parametrize.cached`.
    """

    constraint: str
    n: int
    batch: int
    density: float = 0.0
    structure: str = ""
    work: Literal["step", "forward", "loop"] = "step"

    def __str__(self) -> str:
        density = f", {self.density:.1%}" if self.density else ""
        structure = f", {self.structure}" if self.structure else ""
        work = "" if self.work == "step" else f", {self.work}"
        return f"{self.constraint} n={self.n}, batch={self.batch}{density}{structure}{work}"

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

STRUCTURES: dict[str, Callable[[int], masks.MaskRule]] = {
    "block_diagonal(8)": lambda _: masks.block_diagonal(8),
    "banded(64, 64)": lambda _: masks.banded(64, 64),
    "lower_triangular()": lambda _: masks.lower_triangular(),
    TWO_OF_FOUR: lambda _: masks.n_of_m(2, 4),
    "autoregressive, shuffled": lambda n: masks.autoregressive(*torch.randint(1, n, (2, n)).unbind()),
}

STRUCTURED = (
    *(
        Case("MaskedSparse", n, batch, structure=name)
        for n, batch, name in product((1024, 4096), (32, 128), STRUCTURES)
        if name != TWO_OF_FOUR
    ),
    *(Case(STABLE, n, 128, structure="lower_triangular()") for n in (1024, 2048, 4096)),
    *(Case(CHAIN, n, 128) for n in (1024, 4096)),
    Case("MaskedSparse", 2048, 128, structure="autoregressive, shuffled"),
)
QUICK_STRUCTURED = tuple(case for case in STRUCTURED if (case.n, case.batch) == (1024, 128))

LOOPS = tuple(
    case
    for n in (64, 256, 1024)
    for case in (
        *(Case(constraint, n, 32, work="loop") for constraint in ("Diagonal", "ZeroDiagonal", "NegExpDiagonal")),
        Case("MaskedSparse", n, 32, 0.1, work="loop"),
        Case(STABLE, n, 32, structure="lower_triangular()", work="loop"),
    )
)
SMALL = (
    *(Case(constraint, 32, 32, work="forward") for constraint in ("Diagonal", "ZeroDiagonal", "NegExpDiagonal", CHAIN)),
    Case("MaskedSparse", 32, 32, 0.1, work="forward"),
)

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
    yield from QUICK_STRUCTURED if quick else STRUCTURED
    yield from LOOPS
    yield from SMALL
    yield from BEYOND_DENSE


def mask_of(case: Case) -> Tensor:
    """The same mask at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if case.structure:
            return STRUCTURES[case.structure](case.n)(torch.zeros(case.n, case.n))
        return torch.rand(case.n, case.n, dtype=torch.float32) < case.density
