"""Times of contestants that take turns, so that drift of the machine cancels; memory in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor, nn

__all__ = ["Timing", "copy_bandwidth", "peak_memory", "step_of", "take_turns"]


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
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def take_turns(steps: dict[str, Callable[[], None]], seconds: float, least: int = 7) -> dict[str, Timing]:
    """Run every step in turn until the time is up, each a few times at least."""
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: _timing(taken) for name, taken in times.items()}


def _timing(taken: list[float]) -> Timing:
    low, _, high = quantiles(taken, n=4)
    return Timing(median(taken), low, high, tuple(taken))


def copy_bandwidth(megabytes: int = 256) -> float:
    """Gigabytes that this machine reads and writes in a second when it copies."""
    source = torch.ones(megabytes * 2**18)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    timing = take_turns({"copy": copy}, 0.5)["copy"]
    return 2 * source.nbytes / timing.median / 1e6


def peak_memory(work: Callable[[], None]) -> float:
    """Megabytes that a module-level function adds to a fresh process with torch imported."""
    context = get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(work, queue))
    process.start()
    added: float = queue.get(timeout=300)
    process.join()
    return added


def _measure(work: Callable[[], None], queue: object) -> None:
    torch.set_num_threads(2)
    (torch.ones(8, 8, requires_grad=True) @ torch.ones(8, 8)).sum().backward()  # type: ignore[no-untyped-call]
    before = _peak()
    work()
    queue.put(_peak() - before)  # type: ignore[attr-defined]


def _peak() -> float:
    """Megabytes at most so far; not ``ru_maxrss``, which a process takes over from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
