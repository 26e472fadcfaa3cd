"""The cases to measure."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from benchmarks.cases import CHAIN, FEATURES, KINDS, MASKS, SINGLE, SPARSE, STABLE, TRIANGLE, Case

__all__ = ["ROWS", "TRAINING", "USERS", "WAYS", "cases"]


def _rows(constraint: str, mask: str, batches: tuple[int, ...], threads: int = 2) -> tuple[Case, ...]:
    return tuple(Case(constraint, 0, batch, mask, threads=threads) for batch in batches)


ROWS = (
    *chain.from_iterable(_rows(constraint, "", (1, 32, 128, 512)) for constraint in SINGLE),
    *chain.from_iterable(_rows(constraint, "", (1, 32), threads=1) for constraint in SINGLE[1:]),
    *chain.from_iterable(_rows(SPARSE, mask, (1, 32, 128)) for mask in ("1 %", "10 %", "50 %")),
    *chain.from_iterable(_rows(SPARSE, mask, (1, 32), threads=1) for mask in ("10 %", "50 %")),
    *_rows(SPARSE, "10 %", (512,)),
    *_rows(SPARSE, TRIANGLE, (32,)),
    *chain.from_iterable(
        _rows(SPARSE, mask, (128,)) for mask in (name for name in MASKS if name not in ("1 %", "10 %", "50 %"))
    ),
    *_rows(CHAIN, "", (128,)),
    *_rows(STABLE, TRIANGLE, (128,)),
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
    """The cases of a full run, or of a quick one."""
    if quick:
        return (*USERS, *(case for case in TRAINING if case.features < 1024))
    sizes = (replace(row, features=n) for row in ROWS for n in FEATURES if n <= _largest(row))
    return tuple(dict.fromkeys((*USERS, *WAYS, *sizes, *TRAINING)))


def _largest(row: Case) -> int:
    """One thread is for small layers; large batches of large layers take too long."""
    return 512 if row.threads == 1 else 1024 if row.batch == 512 else 4096
