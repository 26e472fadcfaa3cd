"""Work whose memory is measured in a process of its own: one step with Adam."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.contestants import PLAIN, Case, contestants
from benchmarks.measure import step_of

__all__ = ["MEMORY"]


def _step(case: Case, name: str) -> None:
    device = torch.device("cpu")
    step_of(contestants(case, device, compiled=False)[name], case.n, case.batch, device, adam=True)()


def million_features() -> None:
    """`Diagonal` with 2^20 features, batch 8."""
    _step(Case("Diagonal", 2**20, 8), "ours, fused")


def plain_2048() -> None:
    """`nn.Linear` with 2048 features."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(2048, 2048)
    step_of(layer, 2048, 32, torch.device("cpu"), adam=True)()


MEMORY: dict[str, Callable[[], None]] = {
    "Diagonal, 2^20 features, batch 8": million_features,
    f"{PLAIN}, 2048 features, batch 32": plain_2048,
}
