"""The tour's command line: ``python -m parametrizations``."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from typing_extensions import override

__all__ = ["device", "main"]

CONSTRAINTS = ("Diagonal", "ZeroDiagonal", "NegExpDiagonal", "MaskedSparse")
EXTRAS = {"sklearn": "scikit-learn", "rich": "rich", "matplotlib": "matplotlib", "safetensors": "safetensors"}


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Check the whole command line, then run the tour; what is wrong ends in one line and exit code 2."""
    parser = _command_line()
    options = parser.parse_args(arguments)
    missing = [package for module, package in EXTRAS.items() if importlib.util.find_spec(module) is None]
    if missing:
        parser.error(f"the tour needs {', '.join(missing)}. Run: pip install {' '.join(missing)}")
    if options.out is not None:
        try:
            _prepare(options.out)
        except OSError as error:
            parser.error(f"argument --out: needs a folder to write to. Got '{options.out}': {error.strerror}.")
    from parametrizations._tour.run import run

    names = list(dict.fromkeys(options.constraint or CONSTRAINTS))
    run(names, options.epochs, options.device, options.out)


def _command_line() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m parametrizations",
        description="Take a classifier of handwritten digits that is trained already, attach each constraint "
        "to a copy of it, train on, and take the constraint off again. Nothing is downloaded.",
    )
    parser.add_argument(
        "--constraint",
        type=_constraint,
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(CONSTRAINTS)}; may be given more than once; all if not given",
    )
    parser.add_argument("--epochs", type=_epochs, default=15, metavar="N", help="to train on for; 15 if not given")
    parser.add_argument("--device", type=device, default="cpu", metavar="D", help="cpu (if not given), cuda, ...")
    parser.add_argument("--out", type=_path, metavar="FOLDER", help="where to write weights.png and baked.safetensors")
    return parser


def _constraint(name: str) -> str:
    if name not in CONSTRAINTS:
        raise argparse.ArgumentTypeError(f"needs one of {', '.join(CONSTRAINTS)}. Got {name!r}.")
    return name


def _epochs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number from 1. Got {text!r}.")
    return int(text)


def device(name: str) -> torch.device:
    """A device that is there, for an option of a command line."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"needs a device of this machine. Got {name!r}: {reason}") from error
    return torch.device(name)


def _path(name: str) -> Path:
    if not name:
        raise argparse.ArgumentTypeError("needs a folder to write to. Got ''.")
    return Path(name)


def _prepare(folder: Path) -> None:
    """Make the folder; an `OSError` if what the tour writes could not be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    for name in ("weights.png", "baked.safetensors"):
        if (folder / name).exists():
            (folder / name).open("ab").close()
