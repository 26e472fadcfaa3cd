"""How the time and the memory of `MaskedSparse` grow with the features and the entries of a very large weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import log10
from statistics import median

import torch
from torch import nn

from benchmarks.measure import cost_of, in_new_process, progress
from benchmarks.report import table
from parametrizations import MaskedSparse, masks, register, remask

SETTINGS = (*((10**6, 10**power) for power in (4, 5, 6, 7)), (10**5, 10**6), (10**4, 10**6))
"""Features and entries."""

TENFOLD = (("entries", (10**6, 10**6), (10**6, 10**7)), ("features", (10**5, 10**6), (10**6, 10**6)))
"""Pairs of settings that give an exponent: one number is ten times as large."""

Growth = dict[tuple[int, int], dict[str, tuple[float, float]]]
"""For each setting, the seconds of each step, and its megabytes beyond the process before the step."""


def grow(settings: Sequence[tuple[int, int]] = SETTINGS, runs: int = 3) -> Growth:
    """Measure each setting in processes of its own, and take the medians."""
    found: Growth = {}
    for setting in progress(list(settings)):
        each = [in_new_process(_costs, *setting) for _ in range(runs)]
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


def _costs(features: int, entries: int) -> dict[str, tuple[float, float]]:
    nn.Linear(1, 1)(torch.zeros(1, 1)).sum().backward()  # loads what the first step needs
    return {name: cost_of(step) for name, step in _steps(features, entries)}


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
