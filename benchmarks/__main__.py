"""The benchmark's command line: ``python -m benchmarks [--quick] [--device cuda] [--out FOLDER]``."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from benchmarks.contestants import PLAIN, Case, contestants, registered
from benchmarks.measure import Timing, copy_bandwidth, peak_memory, step_of, take_turns
from benchmarks.memory import MEMORY
from parametrizations import ZeroDiagonal, fuse, path, register

OURS = "ours, fused"
Results = dict[Case, dict[str, Timing]]


def main() -> None:
    """Measure every case, print the tables, and write ``results.md`` and ``results.png``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, in under two minutes")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    results = {case: _measure(case, options) for case in track(list(_cases(options.quick)), "measuring")}
    text = _report(results, options)
    Console().print(text, soft_wrap=True, markup=False)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.md").write_text(text)
    _figure(results).savefig(options.out / "results.png", dpi=110)


def _cases(quick: bool) -> Iterator[Case]:
    for n in (256, 1024, 4096) if quick else (64, 128, 256, 512, 1024, 2048, 4096):
        for batch in (32,) if quick and n < 4096 else (128,) if quick else _batches(n):
            yield Case("ZeroDiagonal", n, batch)
            yield Case("NegExpDiagonal", n, batch)
            yield Case("Diagonal", n, batch)
            for density in (0.01, 0.1) if quick else _densities(batch):
                yield Case("MaskedSparse", n, batch, density)
    for n in (2**17, 2**20):
        yield Case("Diagonal", n, 8)


def _batches(n: int) -> tuple[int, ...]:
    return (1, 32, 128, 512) if n in (64, 256, 1024, 4096) else (32,)


def _densities(batch: int) -> tuple[float, ...]:
    return (0.001, 0.01, 0.05, 0.1, 0.2, 0.5) if batch == 32 else (0.001, 0.01, 0.1, 0.5)


def _measure(case: Case, options: argparse.Namespace) -> dict[str, Timing]:
    """Contestants take turns; the compiled ones only where that was asked for by a full run."""
    torch.compiler.reset()
    compiled = not options.quick and case.batch == 32 and case.n in (256, 1024, 4096)
    layers = contestants(case, options.device, compiled)
    steps = {name: step_of(layer, case.n, case.batch, options.device) for name, layer in layers.items()}
    return take_turns(steps, 0.4 if options.quick else 1.5)


def _report(results: Results, options: argparse.Namespace) -> str:
    lines = [
        "# What the constraints cost",
        "",
        f"Written by `python -m benchmarks{' --quick' if options.quick else ''}` on {date.today()}: torch "
        f"{torch.__version__}, {platform.machine()}, {options.device}, two threads of a shared machine.",
        "",
        "Forward and backward for input, weight and bias, float32. Contestants take turns in one process. Median "
        f"milliseconds of `{PLAIN}` (quartiles), and every other contestant as a multiple of it.",
        "",
    ]
    for case, timings in results.items():
        lines += [f"**{case}**, path: {_path(case)}", "", _row(timings), ""]
    return "\n".join(lines + _figures_to_reach(results) + _further(results))


def _path(case: Case) -> str:
    taken = path(fuse(registered(case, torch.device("cpu"))))
    return f"{taken.name} ({taken.why})"


def _row(timings: dict[str, Timing]) -> str:
    first, *_ = timings
    base = timings[first]
    shown = [f"{first} {base.median:.3f} ms ({base.low:.3f} to {base.high:.3f})"]
    others = [name for name in timings if name != first]
    return "; ".join(shown + [f"{name} {timings[name].median / base.median:.2f}" for name in others])


def _ratio(results: Results, case: Case, one: str, others: tuple[str, ...]) -> float | None:
    """How many times longer one takes than the fastest of the others."""
    timings = results.get(case)
    if timings is None:
        return None
    return timings[one].median / min(timings[other].median for other in others)


def _figures_to_reach(results: Results) -> list[str]:
    usual = ("weight * mask", "prune.custom_from_mask")
    rows: list[tuple[str, float | None, str]] = [
        (
            "Diagonal 4096, batch 128, against x * w + b",
            _ratio(results, Case("Diagonal", 4096, 128), OURS, ("x * w + b",)),
            "<= 1.1",
        ),
        (
            "Diagonal 4096, batch 128, against nn.Linear",
            _ratio(results, Case("Diagonal", 4096, 128), OURS, (PLAIN,)),
            "<= 0.0033",
        ),
        (
            "MaskedSparse 1 %, 4096, batch 128, against the usual",
            _ratio(results, Case("MaskedSparse", 4096, 128, 0.01), OURS, usual),
            "<= 0.033",
        ),
        (
            "MaskedSparse 10 %, 4096, batch 128, against the usual",
            _ratio(results, Case("MaskedSparse", 4096, 128, 0.1), OURS, usual),
            "<= 0.25",
        ),
        (
            "MaskedSparse 50 %, 4096, batch 128, against the usual",
            _ratio(results, Case("MaskedSparse", 4096, 128, 0.5), OURS, usual),
            "<= 1.05",
        ),
    ]
    for constraint, ways in (
        ("ZeroDiagonal", ("weight * mask", "clone, fill_diagonal_")),
        ("NegExpDiagonal", ("clone, copy -exp", "diagonal_scatter -exp")),
    ):
        for n, batch in ((1024, 32), (1024, 128), (4096, 32), (4096, 128)):
            case = Case(constraint, n, batch)
            rows.append(
                (
                    f"{constraint} {n}, batch {batch}, against nn.Linear",
                    _ratio(results, case, OURS, (PLAIN,)),
                    "<= 1.05",
                )
            )
        case = Case(constraint, 256, 32)
        rows.append(
            (f"{constraint} 256, batch 32, against the best dense way", _ratio(results, case, OURS, ways), "<= 1.05")
        )
    table = [f"| {what} | {ratio:.3g} | {goal} |" for what, ratio, goal in rows if ratio is not None]
    return ["## Figures to reach", "", "| work | ratio | goal |", "|---|---|---|", *table, "", *_limits()]


def _limits() -> list[str]:
    """Where the time goes, by PyTorch's profiler, for the rows that are hardest to reach."""
    cases = (
        Case("ZeroDiagonal", 1024, 32),
        Case("NegExpDiagonal", 1024, 32),
        Case("NegExpDiagonal", 256, 32),
        Case("MaskedSparse", 4096, 128, 0.01),
        Case("MaskedSparse", 4096, 128, 0.1),
        Case("Diagonal", 4096, 128),
    )
    lines = ["Where the time of a step goes, in milliseconds (PyTorch's profiler, which adds some of its own):", ""]
    for case in cases:
        layers = contestants(case, torch.device("cpu"), compiled=False)
        names = (PLAIN, OURS, "x * w + b") if case.constraint == "Diagonal" else (PLAIN, OURS)
        lines += [f"- {case}, {name}: {_profile(layers[name], case)}." for name in names]
    return [*lines, "", "What limits the rows that are not reached: [limits.md](limits.md).", ""]


def _profile(layer: nn.Module, case: Case) -> str:
    step = step_of(layer, case.n, case.batch, torch.device("cpu"))
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(10):
            step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return ", ".join(f"{event.key} {event.self_cpu_time_total / 1e4:.2f}" for event in events[:5])


def _further(results: Results) -> list[str]:
    bandwidth = copy_bandwidth()
    n, batch = 2**20, 8
    milliseconds = results[Case("Diagonal", n, batch)][OURS].median
    # Forward reads the inputs and writes the outputs; backward reads both again and writes a gradient.
    moved = 5 * 4 * n * batch / milliseconds / 1e6
    memory = [f"- {name}: {peak_memory(work):.0f} MB" for name, work in MEMORY.items()]
    return [
        "## Further",
        "",
        f"- A copy moves {bandwidth:.1f} GB/s here; `Diagonal` with 2^20 features moves at least {moved:.1f} GB/s, "
        f"{moved / bandwidth:.0%} of that.",
        f"- Cost grows as n^{_exponent(results, 'Diagonal'):.2f} for `Diagonal` (n from 2^17 to 2^20).",
        f"- Cost grows as nnz^{_sparse_exponent(results):.2f} for `MaskedSparse`, 4096, batch 128 (1 % to 10 %).",
        f"- A whole step with Adam, 4096, batch 32, of nn.Linear's: {_adam_steps()}.",
        f"- `register` on 1,000 layers takes {_registering():.2f} of a loop over PyTorch's own function.",
        "",
        "Memory that a step with Adam adds to the imported libraries, each in a process of its own:",
        "",
        *memory,
        "",
    ]


def _exponent(results: Results, constraint: str) -> float:
    small, large = (results[Case(constraint, n, 8)][OURS].median for n in (2**17, 2**20))
    return float(torch.tensor(large / small).log() / torch.tensor(8.0).log())


def _sparse_exponent(results: Results) -> float:
    few, many = (results[Case("MaskedSparse", 4096, 128, density)][OURS].median for density in (0.01, 0.1))
    return float(torch.tensor(many / few).log10())


def _adam_steps() -> str:
    device, shown = torch.device("cpu"), []
    for case in (Case("Diagonal", 4096, 32), Case("ZeroDiagonal", 4096, 32), Case("MaskedSparse", 4096, 32, 0.01)):
        layers = contestants(case, device, compiled=False)
        steps = {name: step_of(layers[name], case.n, case.batch, device, adam=True) for name in (PLAIN, OURS)}
        timings = take_turns(steps, 1.0)
        shown.append(f"{case.constraint} {timings[OURS].median / timings[PLAIN].median:.3f}")
    return ", ".join(shown)


def _registering() -> float:
    """The time to register a model of 1,000 layers, 64 x 64, by name, over that of a loop over its layers."""

    def loop() -> None:
        for layer in nn.Sequential(*(nn.Linear(64, 64) for _ in range(1000))):
            register_parametrization(layer, "weight", ZeroDiagonal())

    def by_name() -> None:
        register(nn.Sequential(*(nn.Linear(64, 64) for _ in range(1000))), {"*.weight": ZeroDiagonal()})

    def build() -> None:
        nn.Sequential(*(nn.Linear(64, 64) for _ in range(1000)))

    timings = take_turns({"loop": loop, "by name": by_name, "build": build}, 5.0)
    base = timings["build"].median
    return (timings["by name"].median - base) / (timings["loop"].median - base)


def _figure(results: Results) -> Figure:
    """Time as a multiple of `nn.Linear`'s: against features, and for a sparse weight against its density."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    *by_size, by_density = figure.subplots(1, 4)
    for axis, constraint in zip(by_size, ("Diagonal", "ZeroDiagonal", "NegExpDiagonal"), strict=True):
        cases = sorted({case.n for case in results if case.constraint == constraint and case.n <= 4096})
        _lines(axis, {n: _at(results, constraint, n) for n in cases})
        axis.set(title=f"{constraint}, batch 32", xlabel="features")
    _lines(by_density, {100 * case.density: results[case] for case in results if case.density and _is_large(case)})
    by_density.set(title="MaskedSparse, 4096, batch 128", xlabel="entries kept, %")
    for axis in by_size[1:]:
        axis.set(ylim=(0.8, 4), yticks=(1, 2, 3))
    by_size[0].set_ylabel("forward and backward, nn.Linear = 1")
    return figure


def _is_large(case: Case) -> bool:
    return (case.n, case.batch) == (4096, 128)


def _at(results: Results, constraint: str, n: int) -> dict[str, Timing]:
    """At batch 32, or at the only one that a quick run has."""
    return results.get(Case(constraint, n, 32)) or results[Case(constraint, n, 128)]


def _lines(axis: Any, timings: dict[float, dict[str, Timing]]) -> None:
    axis.axhline(1, color="grey", linestyle="--")
    for name in [name for name in next(iter(timings.values())) if name not in (PLAIN, "ours, registered")]:
        ratios = {at: times[name].median / times[PLAIN].median for at, times in timings.items() if name in times}
        style = {"color": "black", "linewidth": 2.5} if name == OURS else {"linewidth": 1, "alpha": 0.8}
        axis.loglog(list(ratios), list(ratios.values()), "o-", markersize=4, label=name, **style)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
