"""Training a sparse layer: the memory of a step, and the time to move its mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.measure import cost_of, in_new_process, take_turns
from parametrizations import Diagonal, MaskedSparse, Parametrization, dense_gradients, masks, register, remask
from parametrizations.masks import MaskRule

HUGE = 16_384


class Training:
    """A layer, its optimizer and a batch. A constrained layer is made without its dense weight."""

    def __init__(self, n: int, batch: int, constraint: Parametrization | None = None) -> None:
        with torch.device("meta"):
            layer = nn.Linear(n, n)
            self.layer = register(layer, {"weight": constraint}) if constraint else layer
        self.layer.to_empty(device="cpu")
        self.layer.reset_parameters()
        self.optimizer = torch.optim.Adam(self.layer.parameters())
        self.inputs = torch.randn(batch, n)

    def step(self) -> None:
        """Forward, backward and Adam."""
        self.optimizer.zero_grad()
        self.layer(self.inputs).square().mean().backward()
        self.optimizer.step()

    def move(self, rule: Callable[[], MaskRule]) -> None:
        """Replace the mask."""
        remask(self.layer, {"weight": rule()}, optimizer=self.optimizer)

    def rigl(self) -> MaskRule:
        """RigL, after the pass for its dense gradient."""
        with dense_gradients(self.layer) as gradients:
            self.layer(self.inputs).square().mean().backward()
        return masks.rigl(0.3, gradients)


def time_to_move(n: int = 4096, density: float = 0.01, *, seconds: float = 5.0) -> dict[str, float]:
    """The time of `remask` by each rule, as a multiple of a training step with Adam."""
    random = partial(masks.random, density=density)
    training = Training(n, 128, MaskedSparse(random()))
    training.step()  # gives the optimizer moments, which move with the mask
    rules: dict[str, Callable[[], MaskRule]] = {
        "evolutionary": partial(masks.evolutionary, 0.3),
        "magnitude": partial(masks.magnitude, density=density),
        "random": random,
        "rigl": training.rigl,
    }
    moves = {name: partial(training.move, rule) for name, rule in rules.items()}
    times = take_turns({"step": training.step, **moves}, seconds=seconds)
    return {name: times[name] / times["step"] for name in rules}


def rigl_in_a_huge_layer() -> float:
    """Megabytes of training with Adam and RigL in a layer with a dense weight of 1 GB."""
    return added_by(HUGE, 128, MaskedSparse(masks.random(density=0.001)), moves=True)


def memory() -> dict[str, float]:
    """Megabytes of training with Adam, by layer."""
    few = MaskedSparse(masks.random(density=0.01))
    return {
        "`nn.Linear`, 4096 features, batch 32": added_by(4096, 32),
        "`MaskedSparse`, 1 % kept, 4096 features, batch 32": added_by(4096, 32, few),
        "`Diagonal`, 2^20 features, batch 8": added_by(2**20, 8, Diagonal()),
        f"`MaskedSparse` and RigL, 0.1 % kept, {HUGE} features, batch 128": rigl_in_a_huge_layer(),
    }


def added_by(n: int, batch: int, constraint: Parametrization | None = None, *, moves: bool = False) -> float:
    """Megabytes at most while a layer trains in a fresh process, above the imported libraries. Linux only."""
    return float(in_new_process(_peak, n, batch, constraint, moves))


def _peak(n: int, batch: int, constraint: Parametrization | None, moves: bool) -> float:
    def train() -> None:
        training = Training(n, batch, constraint)
        for _ in range(3):
            training.step()
            if moves:
                training.move(training.rigl)

    Training(8, 8).step()  # the first step of an optimizer imports more of torch
    return cost_of(train)[1]
