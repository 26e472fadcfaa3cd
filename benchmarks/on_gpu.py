"""Every way to multiply, over sizes, batches and precisions, on a GPU: ``python -m benchmarks --device cuda``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import groupby

import torch

from benchmarks.cases import TWO_OF_FOUR, Case
from benchmarks.contestants import PLAIN, as_compiled
from benchmarks.measure import FORWARDS, Timing, Work, take_turns, work_of
from benchmarks.tables import table
from benchmarks.times import multiple
from benchmarks.ways import ways

__all__ = ["PRECISIONS", "Setting", "Timed", "grid", "measured", "report"]

PRECISIONS = {
    "float32": (torch.float32, "highest"),
    "float32, TF32": (torch.float32, "high"),
    "bfloat16": (torch.bfloat16, "highest"),
    "float16": (torch.float16, "highest"),
}
"""The dtype, and what PyTorch calls the precision of float32 products."""
USUAL, HALF = ("float32", "bfloat16"), ("bfloat16", "float16")

MIDDLE = (4096, 2048)
"""The shape at which every precision takes part, and what is compiled: that takes longer than all the rest."""
SHAPES = ((1024, 128), (1024, 8192), (4096, 128), MIDDLE, (4096, 8192), (16384, 2048))
QUICK_SHAPES = ((1024, 128),)
LARGEST = 8192
"""Of more features, masks that keep a tenth and more take no part: to look for structure in them takes long."""


@dataclass(frozen=True)
class Setting:
    """A case, a name in `PRECISIONS`, and whether every contestant is compiled."""

    case: Case
    precision: str
    compiled: bool = False


@dataclass(frozen=True)
class Timed:
    """The time of every contestant that could run, and what the others said."""

    timings: Mapping[str, Timing]
    failed: Mapping[str, str]


def grid(*, quick: bool) -> Iterator[Setting]:
    """Every setting of a full run, or of a quick one."""
    for n, batch in QUICK_SHAPES if quick else SHAPES:
        for case in _cases(n, batch):
            precisions = tuple(PRECISIONS) if (n, batch) == MIDDLE else USUAL
            for precision in HALF if case.structure == TWO_OF_FOUR else precisions:
                yield Setting(case, precision)
            if (n, batch) == MIDDLE:
                yield Setting(case, "bfloat16", compiled=True)


def _cases(n: int, batch: int) -> Iterator[Case]:
    for constraint in ("Diagonal", "ZeroDiagonal", "NegExpDiagonal"):
        yield Case(constraint, n, batch)
    yield Case("MaskedSparse", n, batch, 0.01)
    yield Case("MaskedSparse", n, batch, structure="banded(64, 64)")
    if n <= LARGEST:
        yield Case("MaskedSparse", n, batch, 0.1)
        yield Case("MaskedSparse", n, batch, structure="block_diagonal(8)")
        yield Case("MaskedSparse", n, batch, structure="lower_triangular()")
        yield Case("MaskedSparse", n, batch, structure=TWO_OF_FOUR, work="forward")


def measured(setting: Setting, device: torch.device, seconds: float) -> Timed:
    """Contestants take turns; one that does not run on this device is left out."""
    works: dict[str, Work] = {}
    failed: dict[str, str] = {}
    torch.compiler.reset()
    with _multiplied_in(setting.precision):
        for name, build in ways(setting.case, device).items():
            try:
                layer = as_compiled(build()) if setting.compiled else build()
                works[name] = work_of(layer, setting.case, device)
                works[name]()
            except Exception as error:  # no kernel for it, or too little memory
                works.pop(name, None)
                failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return Timed(take_turns(works, seconds, device=device) if works else {}, failed)


@contextmanager
def _multiplied_in(precision: str) -> Iterator[None]:
    """What is made inside has the dtype."""
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    dtype, matmul = PRECISIONS[precision]
    torch.set_default_dtype(dtype)
    torch.set_float32_matmul_precision(matmul)
    try:
        yield
    finally:
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])


def report(found: Mapping[Setting, Timed], device: torch.device, *, quick: bool) -> str:
    """A table for each kind of weight."""
    parts = [
        f"# What the constraints cost on {device.type}",
        f"Written by `python -m benchmarks --device {device}{' --quick' if quick else ''}` on {date.today()}: torch "
        f"{torch.__version__}, {_named(device)}.",
        f"Forward and backward for input, weight and bias, or {FORWARDS} forward passes. Contestants take turns, each "
        f"on a GPU that has nothing else to do. Median milliseconds of `{PLAIN}` (quartiles), and every other "
        "contestant as a multiple of it. `ours, dense` is what is taken by itself, but for `Diagonal`.",
    ]
    ordered = sorted(found, key=lambda setting: _heading(setting.case))
    for heading, group in groupby(ordered, key=lambda setting: _heading(setting.case)):
        together = {setting: found[setting] for setting in group}
        parts += [f"## {heading}", _table(together), _failures(together)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _heading(case: Case) -> str:
    kept = f"{case.density:.0%} kept" if case.density else case.structure
    return ", ".join(part for part in (case.constraint, kept, "forward" if case.work == "forward" else "") if part)


def _table(found: Mapping[Setting, Timed]) -> str:
    others = [
        name for name in dict.fromkeys(name for timed in found.values() for name in timed.timings) if name != PLAIN
    ]
    rows = ([*_work(setting), *_cells(timed.timings, others)] for setting, timed in found.items())
    return table(("features", "batch", "precision", "", f"{PLAIN}, ms", *others), rows)


def _work(setting: Setting) -> list[str]:
    return [str(setting.case.n), str(setting.case.batch), setting.precision, "compiled" if setting.compiled else ""]


def _cells(timings: Mapping[str, Timing], others: list[str]) -> list[str]:
    if PLAIN not in timings:
        return [""] * (1 + len(others))
    base = timings[PLAIN]
    ratios = (multiple(timings[name].median / base.median) if name in timings else "" for name in others)
    return [f"{base.median:.3f} ({base.low:.3f} to {base.high:.3f})", *ratios]


def _failures(found: Mapping[Setting, Timed]) -> str:
    """Who took no part, and why, each reason once."""
    said = dict.fromkeys((name, why) for timed in found.values() for name, why in timed.failed.items())
    return "\n".join(f"- `{name}` did not run everywhere: {why}" for name, why in said)


def _named(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    return f"{torch.cuda.get_device_name(device)}, driver {driver}, CUDA {torch.version.cuda}"
