"""Memory that work takes, each in a process of its own: one step with Adam."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.contestants import OURS, PLAIN, contestants
from benchmarks.measure import step_of

__all__ = ["memory"]


def memory() -> dict[str, float]:
    """Megabytes that each work adds to a fresh process with the libraries imported."""
    return {name: _added_by(work) for name, work in WORK.items()}


def million_features() -> None:
    """`Diagonal` with 2^20 features, batch 8."""
    case, device = Case("Diagonal", 2**20, 8), torch.device("cpu")
    step_of(contestants(case, device, compiled=False)[OURS], case.n, case.batch, device, adam=True)()


def plain_2048() -> None:
    """`nn.Linear` with 2048 features."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(2048, 2048)
    step_of(layer, 2048, 32, torch.device("cpu"), adam=True)()


WORK: dict[str, Callable[[], None]] = {
    "Diagonal, 2^20 features, batch 8": million_features,
    f"{PLAIN}, 2048 features, batch 32": plain_2048,
}
"""Functions of a module, so that another process finds them."""


def _added_by(work: Callable[[], None]) -> float:
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
