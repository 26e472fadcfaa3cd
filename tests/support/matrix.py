"""The support matrix: what of PyTorch works with each constraint. ``python -m tests.support`` writes the manual's.

Every cell is a test of tests/test_support.py: a feature, a constraint, and whether it was attached by PyTorch's own
function (plain) or by `register` (fused). `LIMITS` has the cells that cannot work, with the reason; their tests are
strict xfails.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Signed, ZeroDiagonal, masks, register, signs

__all__ = ["CASES", "LIMITS", "WITH_MASKS", "Case", "Limit", "limit_of"]

N = 6


class Experts(nn.Module):
    """A stack of linear layers, each with its own input."""

    def __init__(self, experts: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, features, features))
        self.bias = nn.Parameter(torch.randn(experts, 1, features))

    @override
    def forward(self, input: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, input.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)


def normalisation() -> nn.Module:
    layer = nn.LayerNorm(N)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def two_thirds(*shape: int) -> MaskedSparse:
    """A mask that keeps two of three entries."""
    return MaskedSparse(torch.arange(math.prod(shape)).view(shape) % 3 > 0)


@dataclass(frozen=True)
class Kind:
    """A column: the constraints, the plain layer with a ``weight`` to attach them to, and the shape of one input."""

    constraints: Callable[[], list[nn.Module]]
    plain: Callable[[], nn.Module] = lambda: nn.Linear(N, N)
    shape: tuple[int, ...] = (N,)


KINDS = {
    "Diagonal": Kind(lambda: [Diagonal(product="elementwise")]),
    "ZeroDiagonal": Kind(lambda: [ZeroDiagonal(product="replaced-diagonal")]),
    "NegExpDiagonal": Kind(lambda: [NegExpDiagonal(product="replaced-diagonal")]),
    "Signed": Kind(lambda: [Signed(signs.dale(0.5))]),
    "MaskedSparse": Kind(lambda: [MaskedSparse(masks.banded(1, 2), product="strips")]),
    "lower-triangular, NegExp": Kind(lambda: [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]),
    "Diagonal, NegExp": Kind(lambda: [Diagonal(), NegExpDiagonal()]),
    "masked convolution": Kind(lambda: [two_thirds(2, 2, 3, 3)], lambda: nn.Conv2d(2, 2, 3, padding=1), (2, 3, 3)),
    "masked experts": Kind(lambda: [two_thirds(2, 3, 3)], lambda: Experts(2, 3), (2, 3)),
    "masked vector": Kind(lambda: [two_thirds(N)], normalisation),
}
WITH_MASKS = ("MaskedSparse", "lower-triangular, NegExp", "masked convolution", "masked experts", "masked vector")
WAYS = ("plain", "fused")


@dataclass(frozen=True)
class Case:
    """A constraint, attached by PyTorch's own function or by `register`."""

    kind: str
    way: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.way}"

    def plain(self) -> Any:
        """A fresh layer without a constraint."""
        return KINDS[self.kind].plain()

    def layer(self, seed: int = 0) -> Any:
        """A fresh constrained layer, the same for the same seed."""
        torch.manual_seed(seed)
        layer = self.plain()
        constraints = KINDS[self.kind].constraints()
        if self.way == "fused":
            return register(layer, {"weight": constraints})
        for step in constraints:
            register_parametrization(layer, "weight", step)
        return layer

    def dense(self, layer: Any) -> Any:
        """The same layer without a constraint."""
        plain = self.plain()
        plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
        return plain

    def stored(self, layer: Any) -> nn.Parameter:
        """The tensor that is stored and trained."""
        stored: nn.Parameter = layer.parametrizations.weight.original
        return stored

    def inputs(self, batch: int = 3) -> Tensor:
        shape = (batch, *KINDS[self.kind].shape)
        return torch.linspace(-1, 1, math.prod(shape)).view(shape)


CASES = [Case(kind, way) for kind in KINDS for way in WAYS]


@dataclass(frozen=True)
class Limit:
    """Why a feature does not work in some cases, how it fails, and where that was decided or discussed."""

    ways: tuple[str, ...]
    reason: str
    raises: type[Exception]
    upstream: str


LIMITS: dict[str, Limit] = {
    "vmap_over_stacked_models": Limit(
        ("plain",),
        "PyTorch gives each module that it registers on a class of its own, and `stack_module_state` wants one class "
        "for all: attach with `register`, or `fuse`",
        RuntimeError,
        "https://github.com/pytorch/torchtitan/pull/2754",
    ),
    "cached_on_deep_copies": Limit(
        ("plain",),
        "PyTorch's cache is keyed by the module that was registered, so inside `parametrize.cached()` a deep copy is "
        "answered with the original's weight: attach with `register`, or `fuse`",
        AssertionError,
        "https://github.com/pytorch/pytorch/pull/33344",
    ),
    "removing_from_deep_copies": Limit(
        ("plain",),
        "PyTorch deletes the property from the class that both share: use `bake`, or attach with `register`, or `fuse`",
        AttributeError,
        "https://github.com/pytorch/pytorch/pull/80811",
    ),
    "compiling_block_by_block": Limit(
        ("plain",),
        "PyTorch's class for each module makes each block compile again: attach with `register`, or `fuse`",
        AssertionError,
        "https://github.com/pytorch/torchtitan/pull/2754",
    ),
    "loading_a_plain_checkpoint": Limit(
        ("plain",),
        "PyTorch's registration changes the names in the checkpoint: attach with `register`, or `fuse`",
        RuntimeError,
        "https://github.com/pytorch/pytorch/pull/33344",
    ),
}


def limit_of(feature: str, case: Case) -> Limit | None:
    """The reason that a cell does not work, if it does not."""
    limit = LIMITS.get(feature)
    return limit if limit is not None and case.way in limit.ways else None


MANUAL = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- support: begin -->\n", "<!-- support: end -->"


class _Outcomes:
    """A plugin of pytest that collects what became of each cell."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], bool] = {}
        self.titles: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            self.titles[item.originalname] = (item.function.__doc__ or "").rstrip(".")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.failed:
            cell = dict(report.user_properties)
            if cell:
                worked = report.passed and not hasattr(report, "wasxfail")
                self.cells[cell["feature"], cell["kind"], cell["way"]] = worked


def table(outcomes: _Outcomes) -> str:
    """The matrix in Markdown: one row for each feature, notes for what does not work."""
    notes: list[str] = []
    lines = [f"| | {' | '.join(KINDS)} |", f"|---|{'---|' * len(KINDS)}"]
    for feature in dict.fromkeys(name for name, _, _ in outcomes.cells):
        cells = [_cell(outcomes.cells, feature, kind, notes) for kind in KINDS]
        lines.append(f"| {outcomes.titles['test_' + feature]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{place}. {note}." for place, note in enumerate(notes, 1)), ""])


def _cell(cells: dict[tuple[str, str, str], bool], feature: str, kind: str, notes: list[str]) -> str:
    worked = {way: cells[feature, kind, way] for way in WAYS if (feature, kind, way) in cells}
    if not worked:  # not for this kind
        return ""
    if all(worked.values()):
        return "yes"
    note = f"{LIMITS[feature].reason} ([upstream]({LIMITS[feature].upstream}))" if feature in LIMITS else "fails"
    if note not in notes:
        notes.append(note)
    sign = f"<sup>{notes.index(note) + 1}</sup>"
    return f"fused{sign}" if worked.get("fused") else f"no{sign}"


def main() -> None:
    """Run the matrix, and write or check the manual's table."""
    import pytest

    parser = argparse.ArgumentParser(prog="python -m tests.support", description="Write the manual's support matrix.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the manual is out of date")
    options = parser.parse_args()
    outcomes = _Outcomes()
    code = pytest.main(["-q", "-m", "matrix", str(Path(__file__).with_name("test_support.py"))], plugins=[outcomes])
    text = MANUAL.read_text()
    before, rest = text.split(BEGIN)
    updated = before + BEGIN + table(outcomes) + END + rest.split(END)[1]
    if code != 0:
        sys.exit("The support matrix has failing cells, see above.")
    if options.check and updated != text:
        sys.exit("The manual's support matrix is out of date. Run: python -m tests.support")
    if not options.check:
        MANUAL.write_text(updated)
