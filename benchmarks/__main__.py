"""The benchmark's command line: ``python -m benchmarks [--quick] [--device cuda] [--out FOLDER]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from benchmarks import on_gpu
from benchmarks.picture import picture
from benchmarks.report import report
from benchmarks.run import run
from parametrizations._tour.command_line import device


def main() -> None:
    """Measure every case, print the tables, and write them."""
    options = _command_line().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)  # before minutes of measuring
    torch.manual_seed(0)
    torch.set_num_threads(2)
    measure = _on_cpu if options.device.type == "cpu" else _elsewhere
    Console().print(measure(options), soft_wrap=True, markup=False)


def _on_cpu(options: argparse.Namespace) -> str:
    results = run(quick=options.quick)
    text = report(results)
    (options.out / "results.md").write_text(text)
    picture(results.cases).savefig(options.out / "results.png", dpi=110)
    return text


def _elsewhere(options: argparse.Namespace) -> str:
    """Into a file of its own, after each setting, as a long run may be ended before it is through."""
    found: dict[on_gpu.Setting, on_gpu.Timed] = {}
    for setting in track(list(on_gpu.grid(quick=options.quick)), "measuring"):
        found[setting] = on_gpu.measured(setting, options.device, 0.1 if options.quick else 0.5)
        text = on_gpu.report(found, options.device, quick=options.quick)
        (options.out / f"results-{options.device.type}.md").write_text(text)
    return text


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, in under two minutes")
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    return parser


if __name__ == "__main__":
    main()
