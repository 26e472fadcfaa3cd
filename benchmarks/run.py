"""Everything that is measured, one after the other."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.cases import Case, cases
from benchmarks.contestants import OURS, contestants
from benchmarks.further import further
from benchmarks.goals import GOALS
from benchmarks.measure import CPU, take_turns, work_of
from benchmarks.memory import memory
from benchmarks.profiles import profiles
from benchmarks.remasking import remasking
from benchmarks.results import Measured, Results
from parametrizations import explain as path

__all__ = ["run"]


def run(*, quick: bool) -> Results:
    """Measure every case on the CPU, and what else the report shows."""
    found = {case: _measured(case, quick) for case in track(list(cases(quick=quick)), "measuring")}
    timings = {case: measured.timings for case, measured in found.items()}
    return Results(
        origin=_origin(quick),
        cases=found,
        goals={goal: goal.ratio(timings[goal.case]) for goal in GOALS if goal.case in timings},
        further=further(timings) | remasking(),
        memory=memory(),
        profiles=tuple(profiles()),
    )


def _measured(case: Case, quick: bool) -> Measured:
    """Contestants take turns; the compiled ones only where that was asked for by a full run."""
    torch.compiler.reset()
    compiled = not quick and case.work == "step" and case.batch == 32 and case.n in (256, 1024, 4096)
    layers = contestants(case, CPU, compiled)
    steps = {name: work_of(layer, case, CPU) for name, layer in layers.items()}
    return Measured(path(layers[OURS]), take_turns(steps, 0.4 if quick else 1.5))


def _origin(quick: bool) -> str:
    return (
        f"Written by `python -m benchmarks{' --quick' if quick else ''}` on {date.today()}: torch "
        f"{torch.__version__}, {_processor()}, cpu, two threads of a shared machine."
    )


def _processor() -> str:
    """The maker's name for it, where the system tells."""
    told = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in told.read_text().splitlines() if "model name" in line]
        if told.exists()
        else []
    )
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()
