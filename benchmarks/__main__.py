"""Compare the constraints with plain PyTorch, and write ``results.md`` and ``results.png``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import growth
from benchmarks.cases import WAYS, Case, cases
from benchmarks.contestants import MASK_WAYS, contestants
from benchmarks.measure import progress, take_turns, work_of
from benchmarks.picture import PANELS, picture
from benchmarks.products import compare, summary
from benchmarks.report import origin, report
from benchmarks.training import memory, time_to_move


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the report and write it."""
    options = _command_line().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    if options.products:
        name = "products.md"
        text = summary(list(compare()), origin(" --products"))
    elif options.growth:
        name = "growth.md"
        text = growth.summary(growth.grow(), origin(" --growth"))
    else:
        name = "results.md"
        text = _results(options.quick, options.out)
    (options.out / name).write_text(text)
    print(text)


def _results(quick: bool, out: Path) -> str:
    times = {case: _measured(case, quick) for case in progress(cases(quick=quick))}
    pictured = [case for panel in PANELS.values() for case in panel.values()]
    again = [{case: _measured(case, quick) for case in progress(pictured)} for _ in range(0 if quick else 2)]
    picture(times, *again).savefig(out / "results.png", dpi=110)
    further = {} if quick else _further()
    return report(times, further, origin(" --quick" if quick else ""))


def _measured(case: Case, quick: bool) -> dict[str, float]:
    layers = {name: layer for name, layer in contestants(case).items() if case in WAYS or name not in MASK_WAYS}
    works = {name: work_of(layer, case) for name, layer in layers.items()}
    return take_turns(works, seconds=0.3 if quick else 0.7, threads=case.threads, rounds=3 if quick else 5)


def _further() -> dict[str, str]:
    moves = {
        f"`remask` by `{rule}`, 4096 features, 1 % kept": f"{ratio:.1f} training steps"
        for rule, ratio in time_to_move().items()
    }
    return moves | {f"training with Adam, {layer}": f"{megabytes:.0f} MB" for layer, megabytes in memory().items()}


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, in under two minutes")
    parser.add_argument("--products", action="store_true", help="the products of MaskedSparse against each other")
    parser.add_argument("--growth", action="store_true", help="time and memory of very large weights")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    return parser


if __name__ == "__main__":
    main()
