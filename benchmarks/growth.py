"""How the time and the memory of `MaskedSparse` grow with the features and the entries of a very large weight."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from math import log10
from pathlib import Path
from statistics import median

import torch
from torch import nn

from benchmarks.measure import progress
from benchmarks.report import table
from parametrizations import MaskedSparse, masks, register, remask

SETTINGS = (*((10**6, 10**power) for power in (4, 5, 6, 7)), (10**5, 10**6), (10**4, 10**6))
"""Features and entries."""

TENFOLD = (("entries", (10**6, 10**6), (10**6, 10**7)), ("features", (10**5, 10**6), (10**6, 10**6)))
"""Pairs of settings that give an exponent: one number is ten times as large."""

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files of Linux with the largest memory of this process since a reset, and for the reset."""

Growth = dict[tuple[int, int], dict[str, tuple[float, float]]]
"""For each setting, the seconds of each step, and its megabytes beyond the process before the step."""


def grow(settings: Sequence[tuple[int, int]] = SETTINGS, runs: int = 3) -> Growth:
    """Measure each setting in processes of its own, and take the medians."""
    found: Growth = {}
    for setting in progress(list(settings)):
        command = [sys.executable, "-m", "benchmarks.growth", *map(str, setting)]
        outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(runs)]
        each = [json.loads(output) for output in outputs]
        found[setting] = {
            name: (median(one[name][0] for one in each), median(one[name][1] for one in each)) for name in each[0]
        }
    return found


def summary(growth: Growth, origin: str) -> str:
    """A table of times and one of memory, with the exponents of growth."""
    parts = ["# How the cost of very large weights grows", f"{origin} Random entries, float32, batch 16, medians of 3."]
    names = list(next(iter(growth.values())))
    for which, unit in enumerate(("Seconds:", "Megabytes beyond the process before the step:")):
        rows = [
            [f"{n:,}", f"{kept:,}", *(f"{steps[name][which]:.3g}" for name in names)]
            for (n, kept), steps in growth.items()
        ]
        for what, small, large in TENFOLD if growth.keys() >= {*SETTINGS} else ():
            ratios = [growth[large][name][which] / growth[small][name][which] for name in names]
            rows.append([f"exponent of {what}", "", *(f"{log10(ratio):.2f}" for ratio in ratios)])
        parts += [unit, table(("features", "entries", *names), rows)]
    return "\n\n".join(parts) + "\n"


def _steps(features: int, entries: int) -> Iterator[tuple[str, Callable[[], object]]]:
    layer = nn.Linear(features, features, bias=False, device="meta")
    rule = masks.from_edges(torch.randint(features, (entries, 2), generator=torch.Generator().manual_seed(0)))
    redraw, input = masks.random(density=entries / features**2), torch.randn(16, features)
    losses: list[torch.Tensor] = []
    yield "register", lambda: register(layer, {"weight": MaskedSparse(rule)}).to_empty(device="cpu")
    yield "initialise", lambda: layer.reset_parameters()
    optimizer = torch.optim.Adam(layer.parameters())
    yield "forward", lambda: losses.append(layer(input).square().mean())
    yield "backward", lambda: losses.pop().backward()  # type: ignore[no-untyped-call]
    yield "Adam", lambda: optimizer.step()
    yield "SET", lambda: remask(layer, {"weight": masks.evolutionary(0.3)}, optimizer=optimizer)
    yield "random", lambda: remask(layer, {"weight": redraw}, optimizer=optimizer)


def _megabytes() -> float:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else ["VmHWM nan"]
    return next(float(line.split()[1]) * 1024e-6 for line in lines if "VmHWM" in line)


def main() -> None:
    """Print the seconds and megabytes of each step as JSON, for features and entries from the command line."""
    nn.Linear(1, 1)(torch.zeros(1, 1)).sum().backward()  # loads what the first step needs
    measured = {}
    for name, step in _steps(*map(int, sys.argv[1:])):
        if RESET.exists():
            RESET.write_text("5")
        before, start = _megabytes(), time.perf_counter()
        step()
        measured[name] = time.perf_counter() - start, _megabytes() - before
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
