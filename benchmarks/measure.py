"""Times of contestants that take turns, so that drift of the machine cancels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Tensor, nn

__all__ = ["Timing", "step_of", "take_turns"]


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


def take_turns(steps: Mapping[str, Callable[[], object]], seconds: float, least: int = 7) -> dict[str, Timing]:
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
