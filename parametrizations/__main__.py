"""The tour, ``python -m parametrizations``: four constraints on a classifier of handwritten digits.

The plain classifier is trained; then each constraint is registered on a copy, and the copy is trained further.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, masks
from parametrizations.typing import Rules

CONSTRAINTS: dict[str, Rules] = {
    "Diagonal": {"0.weight": Diagonal()},
    "ZeroDiagonal": {"0.weight": ZeroDiagonal()},
    "NegExpDiagonal": {"0.weight": NegExpDiagonal()},
    "MaskedSparse": {
        "0.weight": MaskedSparse(masks.magnitude(density=0.1)),
        nn.Conv2d: MaskedSparse(masks.magnitude(density=0.25)),
    },
}
EXTRAS = {"sklearn": "scikit-learn", "rich": "rich", "matplotlib": "matplotlib", "safetensors": "safetensors"}


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main() -> None:
    """Check the arguments and the packages, then run the tour. A failed check prints one line and exits with code 2."""
    parser = _command_line()
    options = parser.parse_args()
    missing = [package for module, package in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if missing:
        parser.error(f"the tour needs {', '.join(missing)}. Run: pip install {' '.join(missing)}")
    if options.out is not None:
        try:
            _prepare(options.out)
        except OSError as error:
            parser.error(f"argument --out: needs a folder to write to. Got '{options.out}': {error.strerror}.")
    from parametrizations._tour.run import run

    chosen = {name: CONSTRAINTS[name] for name in options.constraint or CONSTRAINTS}
    run(chosen, options.epochs, options.device, options.out)


def _command_line() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m parametrizations",
        description="Train a classifier of handwritten digits, register each constraint on a copy of it, train the "
        "copy, and bake it. Nothing is downloaded.",
    )
    parser.add_argument(
        "--constraint",
        choices=list(CONSTRAINTS),
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(CONSTRAINTS)}; may be given more than once; all if not given",
    )
    parser.add_argument("--epochs", type=_epochs, default=15, metavar="N", help="epochs for each copy; 15 if not given")
    parser.add_argument("--device", type=_device, default="cpu", metavar="D", help="cpu (if not given), cuda, ...")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write weights.png and baked.safetensors")
    return parser


def _epochs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number from 1. Got {text!r}.")
    return int(text)


def _device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"needs a device of this machine. Got {name!r}: {reason}") from error
    return torch.device(name)


def _prepare(folder: Path) -> None:
    """Create the folder. Raise an `OSError` if the tour could not write its files there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for name in ("weights.png", "baked.safetensors"):
        if (folder / name).exists():
            (folder / name).open("ab").close()


if __name__ == "__main__":
    main()
