"""Tables of the manual: the index of the reference is complete, and times are those of the benchmarks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import parametrizations
from parametrizations import masks, positive, signs, testing, typing

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    name
    for module in (parametrizations, masks, signs, positive, testing, typing)
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
]
KINDS = {
    "`MaskedSparse`, lower triangle": "MaskedSparse, lower_triangular()",
    "lower triangle, negative diagonal": "MaskedSparse, NegExpDiagonal, lower_triangular()",
}


def rows(page: str, heading: str) -> Iterator[list[str]]:
    """The rows of the first table below a heading, its header included."""
    below = (ROOT / page).read_text().split(f"\n{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None
    for line in table[0].splitlines():
        yield [cell.strip() for cell in line.strip("|").split("|")]


def measured(heading: str, work: str, kind: str, batch: str) -> dict[str, str]:
    """The times of a constraint by the number of features, on two threads, as multiples of `nn.Linear`'s."""
    header, _, *found = rows("benchmarks/results.md", heading)
    [row] = [row for row in found if row[:4] == [work, kind, batch, "2"]]
    return {features: time.split(" / ")[0] for features, time in zip(header, row, strict=True)}


def same_time(one: str, other: str) -> bool:
    return float(one) == float(other)


@pytest.mark.parametrize("name", NAMES)
def test_the_index_of_the_reference_lists_every_name(name: str) -> None:
    page = (ROOT / "docs/api/index.md").read_text()
    assert re.search(rf"^   {name}$|^\| \[`{name}`\]", page, re.MULTILINE)


@pytest.mark.parametrize(("page", "heading"), [("docs/guides/products.md", "## Cost"), ("README.md", "## Costs")])
def test_times_of_a_step_are_those_of_the_benchmarks(page: str, heading: str) -> None:
    header, _, *found = rows(page, heading)
    sizes = [re.findall(r"\d+", column) for column in header[1:]]
    for kind, *times in found:
        plain = KINDS.get(kind, kind.replace("`", "").removesuffix(" kept"))
        for (features, batch), time in zip(sizes, times, strict=True):
            assert same_time(time, measured("## All sizes", "step", plain, batch)[features]), (kind, features, batch)


def test_times_of_a_loop_are_those_of_the_benchmarks() -> None:
    header, _, *found = rows("docs/guides/loops_over_time.md", "## Cost")
    for kind, *times in found:
        plain = KINDS.get(kind, kind.replace("`", "").removesuffix(" kept"))
        for column, time in zip(header[1:], times, strict=True):
            features = column.split()[0]
            assert same_time(time, measured("## Loops and optimizers", "loop", plain, "32")[features]), (kind, features)


def test_claims_about_the_chosen_product_are_those_of_the_benchmarks() -> None:
    report = (ROOT / "benchmarks/products.md").read_text()
    [(cases, *worst)] = re.findall(r"In (\d+ of \d+) cases .* worst ratio is ([\d.]+) .* and ([\d.]+) ", report)
    guide = (ROOT / "docs/guides/products.md").read_text()
    assert f"{cases} [measured cases]" in guide
    assert f"{max(map(float, worst))} times in the worst case" in guide


def steps(kinds: str, features: Sequence[int], batches: Sequence[int], but: str = "$^") -> tuple[float, float]:
    """The least and the largest time of a step over these cases, as multiples of `nn.Linear`'s."""
    header, _, *found = rows("benchmarks/results.md", "## All sizes")
    times = [
        float(time.split(" / ")[0])
        for work, kind, batch, _, *cells in found
        if work == "step" and re.fullmatch(kinds, kind) and not re.fullmatch(but, kind) and int(batch) in batches
        for size, time in zip(header[4:], cells, strict=True)
        if time and int(size) in features
    ]
    return min(times), max(times)


SMALL, LARGE, USUAL = (32, 64, 128, 256), (1024, 2048, 4096), (1, 32, 128)
NOT_SMALL = "Diagonal.*|.*block_diagonal.*"
RANGES: list[tuple[str, str, tuple[float, float]]] = [
    ("README.md", r"up to 256 features \(([\d.]+) to ([\d.]+) times", steps(".*", SMALL, USUAL, NOT_SMALL)),
    ("docs/limits.md", r"takes ([\d.]+) to ([\d.]+) times as long as that", steps(".*", SMALL, USUAL, NOT_SMALL)),
    ("docs/limits.md", r"`Diagonal` takes ([\d.]+) to ([\d.]+) times", steps("Diagonal", SMALL, USUAL)),
    ("docs/limits.md", r"\)\]` ([\d.]+) to ([\d.]+) times", steps("Diagonal, NegExpDiagonal", SMALL, (128,))),
    ("docs/limits.md", r"features ([\d.]+) to ([\d.]+)\s+times at batch 1,", steps(".*, 50 %", LARGE, (1,))),
    ("docs/limits.md", r" ([\d.]+) to ([\d.]+) times at batch 32", steps(".*, 50 %", LARGE, (32,))),
    ("docs/limits.md", r" ([\d.]+) to ([\d.]+) times at batch 128", steps(".*, 50 %", LARGE, (128,))),
    ("docs/guides/products.md", r"takes ([\d.]+) to ([\d.]+) times as long as", steps(".*, (1|10|50) %", (256,), (1,))),
    ("docs/guides/products.md", r"takes ([\d.]+) to ([\d.]+) times as long with", steps(".*, 50 %", LARGE, (1,))),
    ("docs/guides/products.md", r"and ([\d.]+) to ([\d.]+) times as\s+long with", steps(".*, 1 %", LARGE, (1,))),
    ("docs/guides/choosing.md", r"slower, (by) up to ([\d.]+) times", steps(".*", SMALL, (1,), NOT_SMALL)),
]


@pytest.mark.parametrize(("page", "sentence", "measured"), RANGES)
def test_ranges_of_times_are_those_of_the_benchmarks(page: str, sentence: str, measured: tuple[float, float]) -> None:
    [(low, high)] = re.findall(sentence, (ROOT / page).read_text())
    assert low == "by" or 0.9 * measured[0] <= float(low) <= 1.02 * measured[0], measured
    assert 0.98 * measured[1] <= float(high) <= 1.1 * measured[1], measured
