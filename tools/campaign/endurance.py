"""Memory that stays flat: ``python -m tools.campaign.endurance --cycles 10000 --steps 100000``."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import trange

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, bake, masks, register

__all__ = ["Growth", "cycle", "growth", "make_step"]

WIDTH = 64
"""A leaked weight is 16 kB."""
PAGE = 4096


class Growth(NamedTuple):
    """Growth between the first tenth of a run and its end."""

    objects: int
    megabytes: float


def model() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))


def constrain(made: nn.Sequential) -> nn.Sequential:
    rules: dict[str, Any] = {
        "0.weight": Diagonal(),
        "1.weight": ZeroDiagonal(product="replaced-diagonal"),
        "2.weight": MaskedSparse(masks.banded(1, 1), product="strips"),
        "3.weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
    }
    return register(made, rules)


def cycle() -> Callable[[], object]:
    """Register on a model and bake it in place, repeatedly."""
    made = model()
    return lambda: bake(constrain(made), inplace=True)


def make_step() -> Callable[[], object]:
    """A training step of a constrained model."""
    made, input = constrain(model()), torch.ones(2, WIDTH)
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        made(input).mean().backward()
        optimizer.step()

    return step


def growth(call: Callable[[], object], times: int) -> Growth:
    """Growth from a tenth of the calls to all of them."""
    for _ in range(times // 10):
        call()
    objects, memory = _objects(), _resident()
    for _ in trange(times - times // 10, disable=None):
        call()
    return Growth(_objects() - objects, _resident() - memory)


def _objects() -> int:
    """Tensors, modules and classes."""
    gc.collect()
    return sum(issubclass(type(one), Tensor | nn.Module | type) for one in gc.get_objects())


def _resident() -> float:
    """Resident memory of the process in megabytes; 0 on platforms that do not report it."""
    page = Path("/proc/self/statm")
    return int(page.read_text().split()[1]) * PAGE / 1e6 if page.exists() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.campaign.endurance", description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000, help="how often to register and bake")
    parser.add_argument("--steps", type=int, default=100_000, help="how many training steps")
    arguments = parser.parse_args()
    print(f"{arguments.cycles:,} times registered and baked: {growth(cycle(), arguments.cycles)}")
    print(f"{arguments.steps:,} steps: {growth(make_step(), arguments.steps)}")


if __name__ == "__main__":
    main()
