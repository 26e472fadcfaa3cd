"""The picture: times as multiples of `nn.Linear`'s, against features, and for a sparse weight against its density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from benchmarks.cases import Case
from benchmarks.contestants import OURS, PLAIN, REGISTERED
from benchmarks.results import Measured

__all__ = ["picture"]

Cases = Mapping[Case, Measured]


def picture(cases: Cases) -> Figure:
    """A panel for each constraint."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    *by_size, by_density = figure.subplots(1, 4)
    for axis, constraint in zip(by_size, ("Diagonal", "ZeroDiagonal", "NegExpDiagonal"), strict=True):
        shown = _by_size(cases, constraint)
        _lines(axis, {case.n: measured for case, measured in shown.items()})
        axis.set(title=f"{constraint}, batch {_batches(shown)}", xlabel="features")
    _lines(by_density, _by_density(cases))
    by_density.set(title="MaskedSparse, 4096, batch 128", xlabel="entries kept, %")
    for axis in by_size[1:]:
        axis.set(ylim=(0.8, 4), yticks=(1, 2, 3))
    by_size[0].set_ylabel("forward and backward, nn.Linear = 1")
    return figure


def _by_size(cases: Cases, constraint: str) -> Cases:
    """At batch 32, or at the only one that a quick run has."""
    steps = [case for case in cases if case.constraint == constraint and case.work == "step" and case.fits_densely]
    sizes = sorted({case.n for case in steps})
    wanted = [(Case(constraint, n, 32), Case(constraint, n, 128)) for n in sizes]
    return {case: cases[case] for usual, other in wanted for case in [usual if usual in cases else other]}


def _batches(cases: Cases) -> str:
    return " or ".join(dict.fromkeys(str(case.batch) for case in cases))


def _by_density(cases: Cases) -> dict[float, Measured]:
    return {100 * case.density: cases[case] for case in cases if case.density and (case.n, case.batch) == (4096, 128)}


def _lines(axis: Axes, measured: Mapping[float, Measured]) -> None:
    axis.axhline(1, color="grey", linestyle="--")
    for name in _names(list(measured.values())):
        style: dict[str, Any] = {"linewidth": 1, "alpha": 0.8}
        if name == OURS:
            style = {"color": "black", "linewidth": 2.5}
        multiples = [one.multiple(name) for one in measured.values()]
        axis.loglog(list(measured), multiples, "o-", markersize=4, label=name, **style)
    axis.set_xticks(list(measured), labels=[f"{at:g}" for at in measured])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", labelsize=8)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(fontsize=7)


def _names(measured: list[Measured]) -> list[str]:
    """The contestants that take part everywhere, but for the plain layer and what is not fused."""
    everywhere = set.intersection(*(set(one.timings) for one in measured)) - {PLAIN, REGISTERED}
    return [name for name in measured[0].timings if name in everywhere]
