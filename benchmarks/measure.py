"""Times of contestants in turn, by `torch.utils.benchmark`, and the memory of a process."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.benchmark import Timer

from benchmarks.cases import Case

STEPS = 60
"""Of a loop over time."""
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files of Linux: the largest memory of this process since a reset, and the reset."""

Work = Callable[[], object]
Item = TypeVar("Item")


def progress(items: Sequence[Item]) -> Iterable[Item]:
    """The items, with a bar on the standard error stream."""
    return track(items, "measuring", console=Console(stderr=True))


def take_turns(works: Mapping[str, Work], *, seconds: float, threads: int = 2, rounds: int = 5) -> dict[str, float]:
    """The median milliseconds of each work over rounds in random order, so that drift of the machine cancels.

    The rounds take ``seconds`` together, and are at least ``rounds``. In each, a work runs for a fiftieth of this time.
    """
    timers = {name: Timer("work()", globals={"work": work}, num_threads=threads) for name, work in works.items()}
    numbers = {name: max(1, int(seconds / 50 / timer.timeit(1).median)) for name, timer in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    end, done = time.monotonic() + seconds, 0
    while done < rounds or time.monotonic() < end:
        for name in random.sample([*timers], len(timers)):
            times[name].append(1e3 * timers[name].timeit(numbers[name]).median)
        done += 1
    return {name: median(taken) for name, taken in times.items()}


def work_of(layer: nn.Module, case: Case) -> Work:
    """The work of a case with a layer, on the layer's device and in its dtype.

    Gradients are reset by a list of the parameters, as an optimizer holds it: `nn.Module.zero_grad` walks over all
    modules, which takes 8 microseconds longer for a layer with a parametrization.
    """
    parameters = list(layer.parameters())
    like = parameters[0]
    inputs = torch.randn(case.batch, case.features, device=like.device, dtype=like.dtype, requires_grad=True)
    grad = torch.randn_like(inputs)
    optimizer = torch.optim.Adam(parameters) if case.work == "adam" else None

    def reset() -> None:
        for tensor in (inputs, *parameters):
            tensor.grad = None

    def step() -> None:
        reset()
        output: Tensor = layer(inputs)
        output.backward(grad)  # type: ignore[no-untyped-call]
        if optimizer is not None:
            optimizer.step()

    def loop() -> None:
        reset()
        with parametrize.cached():
            state = inputs
            for _ in range(STEPS):
                state = layer(state).tanh()
            state.backward(grad)  # type: ignore[no-untyped-call]

    return loop if case.work == "loop" else step


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own, with two threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (2,)) as process:
        return process.submit(function, *arguments).result()


def cost_of(work: Work) -> tuple[float, float]:
    """The seconds of a work, and its megabytes at most beyond the process before; on Linux only, elsewhere nan."""
    if RESET.exists():
        RESET.write_text("5")
    before, start = _megabytes(), time.perf_counter()
    work()
    return time.perf_counter() - start, _megabytes() - before


def _megabytes() -> float:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else ["VmHWM nan"]
    return next(float(line.split()[1]) * 1024e-6 for line in lines if "VmHWM" in line)
