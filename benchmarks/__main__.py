"""The benchmark's command line: ``python -m benchmarks [--quick] [--device cuda] [--out FOLDER]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.picture import picture
from benchmarks.report import report
from benchmarks.run import run


def main() -> None:
    """Measure every case, print the tables, and write ``results.md`` and ``results.png``."""
    options = _command_line().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)  # before minutes of measuring
    torch.manual_seed(0)
    torch.set_num_threads(2)
    results = run(options.device, quick=options.quick)
    text = report(results)
    Console().print(text, soft_wrap=True, markup=False)
    (options.out / "results.md").write_text(text)
    picture(results.cases).savefig(options.out / "results.png", dpi=110)


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, in under two minutes")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    return parser


if __name__ == "__main__":
    main()
