"""The picture: times as multiples of `nn.Linear`, by features, and for a sparse weight by density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.cases import DENSITIES, FEATURES, SINGLE, SPARSE, Case, Times
from benchmarks.contestants import BY_HAND, OURS, PLAIN

PANELS = {
    **{f"{name}, batch 32": {f"{n}": Case(name, n, 32) for n in FEATURES} for name in SINGLE},
    f"{SPARSE}, 4096 features, batch 128": {mask: Case(SPARSE, 4096, 128, mask) for mask in DENSITIES},
}
"""The cases of each panel, by features or by the share of kept entries."""


def picture(*runs: Times) -> Figure:
    """The times of the first run on one scale, with a bar if the runs differ by more than a fifth."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    for axis, (title, cases) in zip(figure.subplots(2, 2, sharey=True).flat, PANELS.items(), strict=True):
        axis.set(title=title, xlabel="kept entries" if title.startswith(SPARSE) else "features")
        _draw(axis, {at: [times[case] for times in runs if case in times] for at, case in cases.items()})
    axis.set_ylim(bottom=-0.1)
    figure.supylabel(f"time of forward and backward, {PLAIN} = 1")
    figure.supxlabel("bar: the range of runs that differ by more than a fifth" if len(runs) > 1 else "", fontsize=10)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _draw(axis: Axes, found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    axis.axhline(1, color="grey", linestyle="--", label=PLAIN)
    for name, colour in ((OURS, "black"), (BY_HAND, "tab:blue")):
        ratios = {at: [times[name] / times[PLAIN] for times in runs] for at, runs in found.items() if runs}
        axis.plot(list(ratios), [each[0] for each in ratios.values()], "o-", label=name, color=colour)
        wide = {at: (min(each), max(each)) for at, each in ratios.items() if max(each) > 1.2 * min(each)}
        for at, ends in wide.items():
            axis.plot([at, at], ends, color=colour, linewidth=6, alpha=0.3, solid_capstyle="butt")
