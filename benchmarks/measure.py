"""Times of contestants in turn, by `torch.utils.benchmark`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.benchmark import Timer

from benchmarks.cases import Case

__all__ = ["STEPS", "progress", "take_turns", "work_of"]

STEPS = 60
"""Of a loop over time."""

Work = Callable[[], object]
Item = TypeVar("Item")


def progress(items: Sequence[Item]) -> Iterable[Item]:
    """The items, with a bar on the standard error stream."""
    return track(items, "measuring", console=Console(stderr=True))


def take_turns(works: Mapping[str, Work], *, seconds: float, threads: int = 2, rounds: int = 5) -> dict[str, float]:
    """The median milliseconds of each work over rounds in random order, so that drift of the machine cancels.

    Args:
        works: By name.
        seconds: For all rounds. In one round every work runs for a fiftieth of it, or once, after a warm-up.
        threads: Of the CPU.
        rounds: The least number of rounds.
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
