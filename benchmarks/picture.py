"""The picture: times as multiples of `nn.Linear`, by features, and for a sparse weight by density."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from benchmarks.cases import DENSITIES, FEATURES, SPARSE, Case
from benchmarks.contestants import BY_HAND, OURS, PLAIN
from benchmarks.goals import Times

__all__ = ["picture"]


def picture(times: Times) -> Figure:
    """A panel for each constraint."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    *by_size, by_density = figure.subplots(1, 4)
    for axis, constraint in zip(by_size, ("Diagonal", "ZeroDiagonal", "NegExpDiagonal"), strict=True):
        _lines(axis, times, {n: Case(constraint, n, 32) for n in FEATURES})
        axis.set(title=f"{constraint}, batch 32", xlabel="features")
    _lines(by_density, times, {float(mask[:-2]): Case(SPARSE, 4096, 128, mask) for mask in DENSITIES})
    by_density.set(title="MaskedSparse, 4096, batch 128", xlabel="kept entries, %")
    by_size[0].set_ylabel(f"forward and backward, {PLAIN} = 1")
    return figure


def _lines(axis: Axes, times: Times, cases: Mapping[float, Case]) -> None:
    found = {at: times[case] for at, case in cases.items() if case in times}
    axis.axhline(1, color="grey", linestyle="--")
    for name, colour in ((OURS, "black"), (BY_HAND, "tab:blue")):
        axis.loglog(list(found), [at[name] / at[PLAIN] for at in found.values()], "o-", label=name, color=colour)
    axis.set_xticks(list(found), labels=[f"{at:g}" for at in found], fontsize=8)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(fontsize=7)
