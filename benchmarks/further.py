"""Single figures: bandwidth, growth, whole steps, registering."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from benchmarks.cases import Case
from benchmarks.contestants import OURS, PLAIN, contestants
from benchmarks.goals import BY_MASK
from benchmarks.measure import Timing, step_of, take_turns
from parametrizations import ZeroDiagonal, register

__all__ = ["NEEDED", "further"]

Timings = Mapping[Case, Mapping[str, Timing]]

SMALL, LARGE = Case("Diagonal", 2**17, 8), Case("Diagonal", 2**20, 8)
FEW, MANY = Case("MaskedSparse", 4096, 128, 0.01), Case("MaskedSparse", 4096, 128, 0.1)
NEEDED = (SMALL, LARGE, FEW, MANY)
WITH_ADAM = (
    *(Case(constraint, 4096, 32) for constraint in ("Diagonal", "ZeroDiagonal")),
    Case("MaskedSparse", 4096, 32, 0.01),
    *(Case("MaskedSparse", n, batch, 0.5) for n, batch in ((256, 1), (256, 32), (1024, 1), (1024, 32))),
)


def further(timings: Timings) -> dict[str, str]:
    """Each figure in words, by what it is of."""
    return {what: figure(timings) for what, figure in FIGURES.items()}


def _bandwidth(timings: Timings) -> str:
    # Forward reads the inputs and writes the outputs; backward reads both again and writes a gradient.
    moved = 5 * 4 * LARGE.n * LARGE.batch / timings[LARGE][OURS].median / 1e6
    copied = _copied()
    return f"at least {moved:.1f} GB/s, {moved / copied:.0%} of the {copied:.1f} GB/s of a copy"


def _copied(megabytes: int = 256) -> float:
    """Gigabytes that this machine reads and writes in a second when it copies."""
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    timing = take_turns({"copy": copy}, 0.5)["copy"]
    return 2 * source.nbytes / timing.median / 1e6


def _exponent(timings: Timings, small: Case, large: Case, growth: float) -> float:
    """The power of the work that the time grows with, where the work grows so many times."""
    return math.log(timings[large][OURS].median / timings[small][OURS].median, growth)


def _adam_step(case: Case, _: Timings) -> str:
    device = torch.device("cpu")
    layers = contestants(case, device, compiled=False)
    beside = [name for name in (PLAIN, BY_MASK[0]) if name in layers]
    steps = {name: step_of(layers[name], case.n, case.batch, device, adam=True) for name in (*beside, OURS)}
    timings = take_turns(steps, 1.0)
    return ", ".join(f"{timings[OURS].median / timings[name].median:.3f} of `{name}`" for name in beside)


def _registering(_: Timings) -> str:
    timings = take_turns({"loop": _loop, "by name": _by_name, "build": _build}, 5.0)
    base = timings["build"].median
    ratio = (timings["by name"].median - base) / (timings["loop"].median - base)
    return f"{ratio:.2f} of a loop over PyTorch's own function"


def _build() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(1000)))


def _loop() -> None:
    for layer in _build():
        register_parametrization(layer, "weight", ZeroDiagonal())


def _by_name() -> None:
    register(_build(), {"*.weight": ZeroDiagonal()})


FIGURES: dict[str, Callable[[Timings], str]] = {
    f"{LARGE}, moves": _bandwidth,
    f"{SMALL}, to n={LARGE.n}, grows as": lambda timings: f"n^{_exponent(timings, SMALL, LARGE, 8):.2f}",
    f"{FEW}, to {MANY.density:.1%}, grows as": lambda timings: f"nnz^{_exponent(timings, FEW, MANY, 10):.2f}",
    **{f"{case}, a step with Adam": partial(_adam_step, case) for case in WITH_ADAM},
    "`register` on 1,000 layers": _registering,
}
