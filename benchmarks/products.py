"""The products of `MaskedSparse` against each other: does ``"auto"`` choose the fastest?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf

from benchmarks.cases import DENSITIES, MASKS, SPARSE, Case
from benchmarks.contestants import ours
from benchmarks.measure import cost_of, progress, take_turns, work_of
from benchmarks.report import multiples, table
from parametrizations import explain
from parametrizations.typing import Product

FEATURES, BATCHES = (64, 256, 512, 1024, 2048, 4096), (1, 32, 128, 512)
NAMES: tuple[Product, ...] = ("auto", "dense", "csr", "strips")


@dataclass(frozen=True)
class Choice:
    """The chosen product of a case, and the milliseconds of every product."""

    case: Case
    chosen: str
    times: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """The time of the chosen product as a multiple of the fastest; ``"auto"`` times the chosen one twice."""
        return min(self.times["auto"], self.times.get(self.chosen, inf)) / min(self.times.values())

    @property
    def row(self) -> tuple[str, ...]:
        """A row of the table."""
        at, ratio, auto = self.case, f"{self.ratio:.2f}", f"{self.times['auto']:.3g}"
        others = multiples(self.times, NAMES[1:], "auto")
        return at.mask, f"{at.features}", f"{at.batch}", f"{at.threads}", self.chosen, ratio, auto, *others


def compare(
    features: Sequence[int] = FEATURES, batches: Sequence[int] = BATCHES, seconds: float = 0.2, longest: float = 1.0
) -> Iterator[Choice]:
    """Measure every mask, size and batch, on one and two threads, without products of more than ``longest`` seconds."""
    for n, mask in progress(list(product(features, MASKS))):
        case = Case(SPARSE, n, 1, mask)
        layers = {str(name): ours(case, name) for name in NAMES if name != "strips" or case.mask not in DENSITIES}
        for batch, threads in product(batches, (1, 2)):
            at = replace(case, batch=batch, threads=threads)
            works = {name: work_of(layer, at) for name, layer in layers.items()}
            works = {name: work for name, work in works.items() if name == "auto" or cost_of(work)[0] < longest}
            yield Choice(at, explain(layers["auto"]).product, take_turns(works, seconds=seconds, threads=threads))


def summary(choices: Sequence[Choice], origin: str) -> str:
    """The share of slow choices, the worst ratios, and a table of the slow choices."""
    slow = sorted((choice for choice in choices if choice.ratio > 1.1), key=lambda choice: -choice.ratio)
    alone = [choice.ratio for choice in choices if choice.case.batch == 1]
    batched = [choice.ratio for choice in choices if choice.case.batch >= 32]
    header = "mask", "features", "batch", "threads", "chosen", "ratio", "auto, ms", *NAMES[1:]
    parts = (
        "# The chosen products",
        f"In {len(slow)} of {len(choices)} cases ({len(slow) / len(choices):.0%}; goal: 10 %) the product that "
        "`MaskedSparse` chooses takes more than 1.1 times as long as the fastest one. The worst ratio is "
        f"{max(alone, default=1):.2f} (goal: 2) at batch 1, and {max(batched, default=1):.2f} (goal: 1.25) from batch "
        "32 on.",
        f"{origin} The work is a forward and backward pass, with the gradients of input, weight and bias. `ratio` is "
        "the time of the chosen product over that of the fastest; `dense`, `csr` and `strips` are multiples of `auto`. "
        "Not measured: products of more than a second, and strips of random masks, which cover the whole weight.",
        table(header, (choice.row for choice in slow)),
    )
    return "\n\n".join(parts) + "\n"
