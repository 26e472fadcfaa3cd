"""The cases to measure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from benchmarks.cases import CHAIN, FEATURES, KINDS, SINGLE, SPARSE, STABLE, TRIANGLE, Case

__all__ = ["ROWS", "TRAINING", "USERS", "WAYS", "cases"]


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
