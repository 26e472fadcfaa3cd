"""The results of the tour: a table, a picture, and a file of weights that plain models load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parametrizations._tour.classifier import HIDDEN, Digits, apart, new_classifier

COLUMNS = (
    "numbers stored",
    "of a dense weight",
    "right when attached",
    "right when trained",
    "held after",
    "bake changes outputs by",
)


class Outcome(NamedTuple):
    """One copy of the classifier: its figures for the table, and plain copies of it when attached and when trained."""

    name: str
    figures: Sequence[str]
    plain: Mapping[Literal["attached", "trained"], nn.Module]


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each outcome."""
    title = "The two hidden layers, 32 x 32 and 48 x 32, under each constraint"
    caption = (
        "Right: the share of 450 unseen digits that are named rightly, just after attaching the constraint "
        "and after training on. Held after: the steps after which every constraint was kept exactly."
    )
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
    table.add_column("constraint", no_wrap=True)
    for header in COLUMNS:
        table.add_column(header, justify="right")
    for outcome in outcomes:
        table.add_row(outcome.name, *outcome.figures)
    return table


def write(folder: Path, outcomes: Sequence[Outcome], test: Digits, console: Console) -> None:
    """Write the picture and the weights under each constraint, and load the weights into plain models.

    The first outcome is the unconstrained copy: it is in the picture, but not in the file of weights.
    """
    _figure(outcomes).savefig(folder / "weights.png", dpi=110)
    baked = nn.ModuleDict({outcome.name: outcome.plain["trained"] for outcome in outcomes[1:]})
    save_file(baked.state_dict(), folder / "baked.safetensors")
    plain = nn.ModuleDict({name: new_classifier() for name in baked})
    plain.load_state_dict(load_file(folder / "baked.safetensors"))
    plain.to(test.images.device)
    difference = max(apart(baked[name], plain[name], test) for name in baked)
    console.print(f"Wrote {folder / 'weights.png'}: the weights when attached and when trained.", soft_wrap=True)
    console.print(
        f"Wrote {folder / 'baked.safetensors'}: plain models load it, and their outputs differ by {difference:.1e}.",
        soft_wrap=True,
    )


def _figure(outcomes: Sequence[Outcome]) -> Figure:
    figure = Figure(figsize=(12, 3.4 * len(outcomes)), layout="constrained")
    rows = figure.subplots(len(outcomes), 2 * len(HIDDEN), squeeze=False)
    for axes, (name, _, plain) in zip(rows, outcomes, strict=True):
        weights = [
            (moment, model.get_parameter(f"{layer}.weight").detach().cpu())
            for layer in HIDDEN
            for moment, model in plain.items()
        ]
        limit = max(float(weight.abs().max()) for _, weight in weights) / 2
        for axis, (moment, weight) in zip(axes, weights, strict=True):
            _draw(axis, weight, limit, diagonal=name != "MaskedSparse")
            axis.set_title(f"{name}, {weight.shape[0]} x {weight.shape[1]}, {moment}", fontsize=9)
        colours = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
        figure.colorbar(colours, ax=list(axes), extend="both", shrink=0.8, label="weight; white is 0")
    return figure


def _draw(axis: Axes, weight: Tensor, limit: float, *, diagonal: bool) -> None:
    """Draw a weight. With ``diagonal``, frame the diagonal entries and make the others paler."""
    colours = colormaps["RdBu_r"](Normalize(-limit, limit)(weight.numpy()))
    if diagonal:
        for place in range(min(weight.shape)):
            axis.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, linewidth=0.7))
        other = ~torch.eye(*weight.shape, dtype=torch.bool).numpy()
        colours[other] = 0.65 + 0.35 * colours[other]
    axis.imshow(colours, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
