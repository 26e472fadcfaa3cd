"""What the tour shows at its end: a table, a picture, and a file of weights that plain models load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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

from parametrizations._tour.classifier import CONSTRAINED, Digits, apart, new_classifier, outputs_of

__all__ = ["UNCONSTRAINED", "Outcome", "table", "write"]

UNCONSTRAINED = "unconstrained"


@dataclass(frozen=True)
class Outcome:
    """What became of one copy of the classifier; ``images`` are its weights as attached and as trained."""

    name: str
    stored: int
    dense: int
    attached_accuracy: float
    trained_accuracy: float
    held: list[bool]  # for each step, whether every layer was in its set after it
    baking_difference: float
    images: list[tuple[Tensor, Tensor]]
    baked: nn.Sequential


COLUMNS = (
    "numbers stored",
    "of a dense weight",
    "right when attached",
    "right when trained",
    "held after",
    "bake changes outputs by",
)


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each outcome; the first is the one without constraints."""
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
        table.add_row(*_cells(outcome))
    return table


def _cells(outcome: Outcome) -> tuple[str, ...]:
    constrained = outcome.name != UNCONSTRAINED
    return (
        outcome.name,
        f"{outcome.stored:,}",
        f"{outcome.dense:,}",
        f"{outcome.attached_accuracy:.1%}",
        f"{outcome.trained_accuracy:.1%}",
        f"{sum(outcome.held)}/{len(outcome.held)}" if constrained else "-",
        f"{outcome.baking_difference:.1e}" if constrained else "-",
    )


def write(folder: Path, outcomes: Sequence[Outcome], digits: Digits, console: Console) -> None:
    """The picture, and the weights under each constraint, read back into models that know nothing of constraints.

    The first outcome is the one without constraints, in the picture alone.
    """
    _figure(outcomes).savefig(folder / "weights.png", dpi=110)
    baked = nn.ModuleDict({outcome.name: outcome.baked for outcome in outcomes[1:]})
    save_file(baked.state_dict(), folder / "baked.safetensors")
    plain = nn.ModuleDict({name: new_classifier() for name in baked})
    plain.load_state_dict(load_file(folder / "baked.safetensors"))
    images = digits.test[0]
    plain.to(images.device)
    difference = max(apart(outputs_of(baked[name], images), outputs_of(plain[name], images)) for name in baked)
    console.print(f"Wrote {folder / 'weights.png'}: the weights when attached and when trained.", soft_wrap=True)
    console.print(
        f"Wrote {folder / 'baked.safetensors'}: plain models load it, and their outputs differ by {difference:.1e}.",
        soft_wrap=True,
    )


def _figure(outcomes: Sequence[Outcome]) -> Figure:
    figure = Figure(figsize=(12, 3.4 * len(outcomes)), layout="constrained")
    rows = figure.subplots(len(outcomes), 2 * len(CONSTRAINED), squeeze=False)
    for axes, outcome in zip(rows, outcomes, strict=True):
        panels = [image for pair in outcome.images for image in pair]
        limit = max(float(panel.abs().max()) for panel in panels) / 2
        for axis, panel, moment in zip(axes, panels, ("attached", "trained") * len(CONSTRAINED), strict=True):
            picture = _draw(axis, panel, limit, diagonal=outcome.name != "MaskedSparse")
            axis.set_title(f"{outcome.name}, {panel.shape[0]} x {panel.shape[1]}, {moment}", fontsize=9)
        figure.colorbar(picture, ax=list(axes), extend="both", shrink=0.8, label="weight; white is 0")
    return figure


def _draw(axis: Axes, weight: Tensor, limit: float, *, diagonal: bool) -> ScalarMappable:
    """A weight; its diagonal is framed, and the rest paler, where the constraint is about the diagonal."""
    scale = Normalize(-limit, limit)
    colours = colormaps["RdBu_r"](scale(weight.cpu().numpy()))
    for place in range(min(weight.shape) if diagonal else 0):
        axis.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, linewidth=0.7))
    if diagonal:
        beside = ~torch.eye(*weight.shape, dtype=torch.bool).numpy()
        colours[beside] = 0.65 + 0.35 * colours[beside]
    axis.imshow(colours, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    return ScalarMappable(scale, "RdBu_r")
