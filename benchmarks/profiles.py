"""Where the time of a step goes, by PyTorch's profiler, for the cases that are hardest to make fast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.cases import CHAIN, STABLE, Case
from benchmarks.contestants import OURS, PLAIN, contestants
from benchmarks.measure import step_of

__all__ = ["PROFILED", "SHOWN", "Profile", "profiles"]

SHOWN = 5
"""Operations of a profile."""

STEPS = 10

PROFILED = {
    Case("ZeroDiagonal", 1024, 32): (PLAIN, OURS),
    Case("NegExpDiagonal", 1024, 32): (PLAIN, OURS),
    Case("NegExpDiagonal", 256, 32): (PLAIN, OURS),
    Case("MaskedSparse", 4096, 128, 0.01): (PLAIN, OURS),
    Case("MaskedSparse", 4096, 128, 0.1): (PLAIN, OURS),
    Case("MaskedSparse", 1024, 128, structure="banded(64, 64)"): (PLAIN, OURS),
    Case("MaskedSparse", 1024, 128, structure="lower_triangular()"): (PLAIN, OURS),
    Case("MaskedSparse", 2048, 128, structure="autoregressive, shuffled"): (PLAIN, OURS),
    Case(STABLE, 1024, 128, structure="lower_triangular()"): (PLAIN, OURS),
    Case(CHAIN, 4096, 128): (OURS, "x * -exp(a) + b"),
    Case("Diagonal", 4096, 128): (PLAIN, OURS, "x * w + b"),
}


@dataclass(frozen=True)
class Profile:
    """The operations of one contestant that take most time, with their milliseconds in a step."""

    case: Case
    contestant: str
    operations: tuple[tuple[str, float], ...]


def profiles() -> Iterator[Profile]:
    """Every profile, on the CPU."""
    for case, names in PROFILED.items():
        layers = contestants(case, torch.device("cpu"), compiled=False)
        for name in names:
            yield Profile(case, name, _operations(layers[name], case))


def _operations(layer: nn.Module, case: Case) -> tuple[tuple[str, float], ...]:
    step = step_of(layer, case.n, case.batch, torch.device("cpu"))
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return tuple((event.key, event.self_cpu_time_total / 1e3 / STEPS) for event in events[:SHOWN])
