"""The cases to measure: constraint, size, batch, mask, work and threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from parametrizations import masks

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


Times = Mapping[Case, Mapping[str, float]]
"""Milliseconds of each contestant."""
SINGLE, SPARSE, TRIANGLE = ("Diagonal", "ZeroDiagonal", "NegExpDiagonal"), "MaskedSparse", "lower_triangular()"
KINDS = ((SINGLE[0], ""), (SINGLE[1], ""), (SINGLE[2], ""), (SPARSE, "10 %"), (STABLE, TRIANGLE))

GROUPS: tuple[tuple[Iterable[str], Iterable[str], Iterable[int], int], ...] = (
    (SINGLE, [""], (1, 32, 128, 512), 2),
    (SINGLE[1:], [""], (1, 32), 1),
    ([SPARSE], ("1 %", "10 %", "50 %"), (1, 32, 128), 2),
    ([SPARSE], ("10 %", "50 %"), (1, 32), 1),
    ([SPARSE], ["10 %"], [512], 2),
    ([SPARSE], ("0.1 %", "5 %", "block_diagonal(8)", "banded(64, 64)", "autoregressive"), [128], 2),
    ([SPARSE], [TRIANGLE], (32, 128), 2),
    ([CHAIN], [""], [128], 2),
    ([STABLE], [TRIANGLE], [128], 2),
)
"""Constraints, masks, batches and threads."""
ROWS = tuple(
    Case(constraint, 0, batch, mask, threads=threads)
    for constraints, masks, batches, threads in GROUPS
    for constraint, mask, batch in product(constraints, masks, batches)
)
"""Rows of the table of all sizes; `FEATURES` are its columns."""
USERS = tuple(
    Case(constraint, features, batch, mask)
    for constraint, mask in (*KINDS[:3], (SPARSE, "1 %"), (SPARSE, "10 %"), (SPARSE, TRIANGLE))
    for features, batch in ((64, 32), (512, 32), (4096, 128))
)
WAYS = tuple(
    Case(SPARSE, features, batch, mask)
    for features, batch in ((256, 32), (4096, 128))
    for mask in ("1 %", "10 %", "50 %")
)
"""The cases that measure every way to write a mask."""
TRAINING = (
    *(Case(constraint, n, 32, mask, "loop") for constraint, mask in KINDS for n in (64, 256, 1024)),
    *(Case(constraint, n, 32, mask, "adam") for constraint, mask in KINDS[1:4] for n in (256, 4096)),
)


def cases(*, quick: bool) -> tuple[Case, ...]:
    """The cases of a full run, or of a quick one; cases with one mask follow each other."""
    sizes = (replace(row, features=n) for row in ROWS for n in FEATURES if n <= _largest(row))
    found = [*USERS, *WAYS, *sizes, *TRAINING]
    if quick:
        found = [*USERS, *(case for case in TRAINING if case.features < 1024)]
    return tuple(sorted(dict.fromkeys(found), key=lambda case: (case.features, case.mask)))


def _largest(row: Case) -> int:
    """One thread is for small layers; large batches of large layers take too long."""
    return 512 if row.threads == 1 else 1024 if row.batch == 512 else 4096
