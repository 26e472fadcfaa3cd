"""What masks that move cost: ``python -m benchmarks.remasking``, in time beside a training step, and in memory."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from benchmarks.measure import step_of, take_turns
from benchmarks.tables import table
from parametrizations import MaskedSparse, dense_gradients, masks, register, remask
from parametrizations.masks import MaskRule

__all__ = ["HUGE", "memory", "remasking"]

CPU = torch.device("cpu")
N, DENSITY, BATCH = 4096, 0.01, 128
HUGE, FEW = 16_384, 0.001


def remasking() -> dict[str, str]:
    """Each figure in words, by what it is of."""
    return {**_times(), **memory()}


def _times() -> dict[str, str]:
    """Moves of a mask as multiples of a training step: forward, backward and Adam."""
    steps = {"step": Training(N, DENSITY).step, "dense": _plain_step()}
    steps |= {name: Training(N, DENSITY).moved_by(rule) for name, rule in MOVES.items()}
    timings = take_turns(steps, 20.0)
    one, dense = timings["step"].median, timings["dense"].median
    return {
        f"`remask` by {name}, n={N}, {DENSITY:.0%}": (
            f"{timings[name].median / one:.2f} training steps (of {one:.1f} ms), {timings[name].median / dense:.2f} of "
            "`nn.Linear`"
        )
        for name in MOVES
    }


def _plain_step() -> Callable[[], None]:
    return step_of(nn.Linear(N, N), N, BATCH, CPU, adam=True)


class Training:
    """A sparse layer that is never dense, trained with Adam."""

    def __init__(self, n: int, density: float) -> None:
        with torch.device("meta"):
            layer = register(nn.Linear(n, n), {"weight": MaskedSparse(masks.random(density=density))})
        self.layer: Any = layer.to_empty(device="cpu")
        self.layer.reset_parameters()
        self.optimizer = torch.optim.Adam(self.layer.parameters())
        self.inputs = torch.randn(BATCH, n)
        self.step()

    def step(self) -> None:
        """Forward, backward and Adam."""
        self.optimizer.zero_grad()
        self.layer(self.inputs).square().mean().backward()
        self.optimizer.step()

    def moved_by(self, rule: Callable[[Training], MaskRule]) -> Callable[[], None]:
        """What moves the mask of this layer, with the optimizer."""
        return lambda: self.move(rule(self))

    def move(self, rule: MaskRule) -> None:
        """A new mask, with the optimizer."""
        remask(self.layer, {"weight": rule}, optimizer=self.optimizer)

    def rigl(self) -> MaskRule:
        """RigL, with the pass that it needs."""
        with dense_gradients(self.layer) as gradients:
            self.layer(self.inputs).square().mean().backward()
        return masks.rigl(0.3, gradients)


MOVES: dict[str, Callable[[Training], MaskRule]] = {
    "`evolutionary`": lambda _: masks.evolutionary(0.3),
    "`magnitude`": lambda _: masks.magnitude(density=DENSITY),
    "`random`": lambda _: masks.random(density=DENSITY),
    "`rigl`, its dense gradient and the pass for it": Training.rigl,
}


def memory() -> dict[str, str]:
    """The most that training adds to a layer too large to exist densely, in a process of its own."""
    context = get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_train_huge, args=(queue,))
    process.start()
    added = queue.get(timeout=600)
    process.join()
    dense = HUGE * HUGE * 4 / 2**20
    what = f"RigL and Adam, n={HUGE}, {FEW:.1%}, batch {BATCH}: most memory that training adds to the registered layer"
    return {what: f"{added:.0f} MB, where a dense weight takes {dense:.0f} MB"}


def _train_huge(queue: Any) -> None:
    torch.set_num_threads(2)
    training = Training(HUGE, FEW)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS:")
    for _ in range(3):
        training.step()
        training.move(training.rigl())
    queue.put(_status("VmHWM:") - before)


def _status(what: str) -> float:
    """Megabytes of this process, by the kernel's name for them."""
    return int(Path("/proc/self/status").read_text().split(what)[1].split()[0]) / 1024


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(2)
    Console().print(table(("what", "figure"), remasking().items()), soft_wrap=True, markup=False)
