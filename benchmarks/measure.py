"""Times of contestants that take turns, so that drift of the machine cancels."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.cases import Case

__all__ = ["CPU", "FORWARDS", "STEPS", "Timing", "clock_of", "step_of", "take_turns", "work_of"]

CPU = torch.device("cpu")

STEPS = 100
"""Of a loop over time."""
FORWARDS = 100
"""Passes that are timed together where one takes less time than the clock is exact."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median, and the quartiles around it."""

    median: float
    low: float
    high: float
    times: tuple[float, ...]


def step_of(layer: nn.Module, n: int, batch: int, device: torch.device, *, adam: bool = False) -> Callable[[], None]:
    """Forward and backward for input, weight and bias; with a step of Adam if asked."""
    inputs = torch.randn(batch, n, device=device, requires_grad=True)
    grad = torch.randn(batch, n, device=device)
    optimizer = torch.optim.Adam(layer.parameters()) if adam else None

    def step() -> None:
        inputs.grad = None
        layer.zero_grad()
        output: Tensor = layer(inputs)
        output.backward(grad)  # type: ignore[no-untyped-call]
        if optimizer is not None:
            optimizer.step()

    return step


def work_of(layer: nn.Module, case: Case, device: torch.device) -> Callable[[], None]:
    """What is timed in a case."""
    if case.work == "forward":
        return _forwards_of(layer, case, device)
    return step_of(layer, case.n, case.batch, device) if case.work == "step" else _loop_of(layer, case, device)


def _forwards_of(layer: nn.Module, case: Case, device: torch.device) -> Callable[[], None]:
    inputs = torch.randn(case.batch, case.n, device=device)

    def forwards() -> None:
        for _ in range(FORWARDS):
            layer(inputs)

    return forwards


def _loop_of(layer: nn.Module, case: Case, device: torch.device) -> Callable[[], None]:
    """A recurrent layer's steps, forward and backward: what is built, is built once."""
    start = torch.randn(case.batch, case.n, device=device)

    def loop() -> None:
        layer.zero_grad()
        with parametrize.cached():
            state = start
            for _ in range(STEPS):
                state = layer(state).tanh()
            state.sum().backward()  # type: ignore[no-untyped-call]

    return loop


Work = Callable[[], object]


def take_turns(
    steps: Mapping[str, Work], seconds: float, least: int = 7, device: torch.device = CPU
) -> dict[str, Timing]:
    """Run every step in turn until the time is up, each a few times at least.

    Each round has another order: what comes after a step that fills the cache, or gives back memory, takes longer.
    """
    clock = clock_of(device)
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end, orders = time.perf_counter() + seconds, random.Random(0)
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, step in orders.sample([*steps.items()], len(steps)):
            times[name].append(clock(step))
    return {name: _timing(taken) for name, taken in times.items()}


def clock_of(device: torch.device) -> Callable[[Work], float]:
    """What tells how many milliseconds a device takes for some work, when it has nothing else to do."""
    return _by_events if device.type == "cuda" else partial(_by_the_wall, device)


def _by_events(work: Work) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _by_the_wall(device: torch.device, work: Work) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return 1e3 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _timing(taken: list[float]) -> Timing:
    low, _, high = quantiles(taken, n=4)
    return Timing(median(taken), low, high, tuple(taken))
