"""The report: ``results.md``."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from tabulate import tabulate

from benchmarks.cases import CHAIN, FEATURES, ROWS, SPARSE, TRAINING, USERS, WAYS, Case, Times
from benchmarks.contestants import BY_HAND, LINES, MASK_WAYS, OURS, PLAIN
from benchmarks.measure import STEPS


class Goal(NamedTuple):
    """A figure to reach: ours takes at most ``most`` times as long as ``against``, in these ranges."""

    constraint: str
    features: tuple[int, int]
    batch: tuple[int, int]
    against: str
    most: float
    mask: str = ""
    work: str = "step"

    def ratios(self, times: Times) -> list[float]:
        """The multiple in each measured case."""
        (fewest, most), (smallest, largest) = self.features, self.batch
        return [
            found[OURS] / found[self.against]
            for case, found in times.items()
            if (case.constraint, case.work) == (self.constraint, self.work) and self.mask in ("", case.mask)
            if fewest <= case.features <= most and smallest <= case.batch <= largest
        ]


GOALS = (
    Goal("ZeroDiagonal", (32, 512), (1, 128), BY_HAND, 1.05),
    Goal(SPARSE, (32, 512), (1, 128), BY_HAND, 1.05),
    Goal("NegExpDiagonal", (32, 128), (1, 128), BY_HAND, 1.15),
    Goal("NegExpDiagonal", (256, 512), (1, 128), BY_HAND, 1.1),
    Goal("Diagonal", (4096, 4096), (1, 128), BY_HAND, 1.1),
    Goal(CHAIN, (4096, 4096), (128, 128), BY_HAND, 1.1),
    *(Goal(name, (1024, 4096), (32, 128), PLAIN, 1.05) for name in ("ZeroDiagonal", "NegExpDiagonal")),
    *(
        Goal(SPARSE, (4096, 4096), (128, 128), "prune", most, mask)
        for mask, most in (("1 %", 0.05), ("10 %", 0.286), ("50 %", 1.05))
    ),
    *(
        Goal(SPARSE, (n, n), (128, 128), PLAIN, most, mask)
        for n, goals in ((4096, (0.15, 0.12, 0.7)), (1024, (0.25, 0.5, 0.95)))
        for mask, most in zip(("block_diagonal(8)", "banded(64, 64)", "lower_triangular()"), goals, strict=True)
    ),
    *(
        Goal(name, (64, 1024), (32, 32), PLAIN, 1.05, work="loop")
        for name in ("ZeroDiagonal", "NegExpDiagonal", SPARSE)
    ),
)


def report(times: Times, further: Mapping[str, str], origin: str) -> str:
    """The users' table first, then all sizes, and the figures to reach."""
    parts = [
        "# What the constraints cost",
        _rows(times, USERS, (OURS, BY_HAND)),
        f"`{OURS}` and `{BY_HAND}` are multiples of the time of `{PLAIN}`: below 1 is faster. The work is a forward "
        "pass and a backward pass in float32 on two threads, with the gradients of input, weight and bias. "
        f"`{BY_HAND}` is one line of PyTorch:",
        "\n".join(f"- `{constraint}`: `{line}`" for constraint, (line, _) in LINES.items()),
        f"{origin} What limits the slow rows: [limits.md](limits.md).",
        "## All sizes",
        f"`{OURS}` / `{BY_HAND}`, both as multiples of `{PLAIN}`. The columns are the numbers of features.",
        _by_size(times, ROWS),
        "## Loops and optimizers",
        f"`loop` is {STEPS} steps over time inside `torch.nn.utils.parametrize.cached()`, forward and backward. "
        "`adam` is a forward and backward pass and a step of Adam.",
        _by_size(times, TRAINING),
        "## Ways to write a mask",
        f"Multiples of `{PLAIN}`. `prune` is `torch.nn.utils.prune`, which multiplies with the mask.",
        _rows(times, WAYS, (OURS, BY_HAND, *MASK_WAYS)),
        *(("## Moving masks, and memory", table(("work", "cost"), further.items())) if further else ()),
        "## Figures to reach",
        f"The time of `{OURS}` as a multiple of another contestant's, over the measured cases in each range.",
        _goals(times),
    ]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In markdown."""
    return str(tabulate(list(rows), header, tablefmt="github", disable_numparse=True))


def multiples(found: Mapping[str, float], names: Iterable[str], base: str = PLAIN) -> list[str]:
    """The times of the contestants, as multiples of the base; empty without a time."""
    return [_digits(found[name] / found[base]) if name in found else "" for name in names]


def _digits(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _rows(times: Times, cases: Iterable[Case], names: Sequence[str]) -> str:
    """A row for each case."""
    rows = (
        (case.weight, f"{case.features}", f"{case.batch}", f"{times[case][PLAIN]:.3g}", *multiples(times[case], names))
        for case in cases
        if case in times
    )
    return table(("constraint", "features", "batch", f"{PLAIN}, ms", *names), rows)


def _by_size(times: Times, cases: Iterable[Case]) -> str:
    """A column for each number of features."""
    rows = []
    for row in dict.fromkeys(replace(case, features=0) for case in cases):
        found = [times.get(replace(row, features=features), {}) for features in FEATURES]
        if any(found):
            cells = [" / ".join(filter(None, multiples(at, (OURS, BY_HAND)))) for at in found]
            rows.append((row.work, row.weight, f"{row.batch}", f"{row.threads}", *cells))
    return table(("work", "constraint", "batch", "threads", *map(str, FEATURES)), rows)


def _goals(times: Times) -> str:
    rows = []
    for goal in GOALS:
        if ratios := goal.ratios(times):
            kind = goal.work, f"{goal.constraint}, {goal.mask}".removesuffix(", ")
            ranges = (" to ".join(map(str, dict.fromkeys(ends))) for ends in (goal.features, goal.batch))
            figures = f"{goal.most}", _digits(median(ratios)), _digits(max(ratios))
            rows.append((*kind, *ranges, goal.against, *figures))
    return table(("work", "constraint", "features", "batch", "against", "goal", "median", "worst"), rows)


def origin(options: str) -> str:
    """The command, the date and the machine."""
    return f"Written by `python -m benchmarks{options}` on {date.today()}: torch {torch.__version__}, {_processor()}."


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.machine()
