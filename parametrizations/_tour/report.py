"""What the tour shows at its end: a table, a picture, and a file of weights that plain models load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parametrizations._tour.classifier import CONSTRAINED, Digits, apart, new_classifier, outputs_of

__all__ = ["Outcome", "table", "write"]


@dataclass(frozen=True)
class Outcome:
    """What became of one copy of the classifier; ``images`` are its weights as attached and as trained."""

    name: str
    stored: int
    dense: int
    attached_accuracy: float
    trained_accuracy: float
    violations: int  # steps after which a layer was outside its set
    steps: int
    milliseconds: float
    baking_difference: float
    images: list[tuple[Tensor, Tensor]]
    baked: nn.Sequential


COLUMNS = (
    "numbers stored",
    "numbers dense",
    "tested before",
    "tested after",
    "steps it held",
    "ms per step",
    "to plain",
    "baking moves",
)


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each outcome; the first is the one without constraints."""
    title = "The two hidden layers, 32 x 32 and 48 x 32, under each constraint"
    caption = "Tested: share of 450 unseen digits told right, as attached and as trained on."
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
    table.add_column("constraint", no_wrap=True)
    for header in COLUMNS:
        table.add_column(header, justify="right")
    for outcome in outcomes:
        table.add_row(*_cells(outcome, outcomes[0].milliseconds))
    return table


def _cells(outcome: Outcome, plain: float) -> tuple[str, ...]:
    constrained = bool(outcome.images)
    return (
        outcome.name,
        f"{outcome.stored:,}",
        f"{outcome.dense:,}",
        f"{outcome.attached_accuracy:.1%}",
        f"{outcome.trained_accuracy:.1%}",
        f"{outcome.steps - outcome.violations}/{outcome.steps}" if constrained else "-",
        f"{outcome.milliseconds:.2f}",
        f"{outcome.milliseconds / plain:.2f}x",
        f"{outcome.baking_difference:.1e}" if constrained else "-",
    )


def write(folder: Path, outcomes: Sequence[Outcome], digits: Digits, console: Console) -> None:
    """The picture, and the weights; these are read back into models that know nothing of constraints."""
    _figure(outcomes).savefig(folder / "weights.png", dpi=110)
    baked = nn.ModuleDict({outcome.name: outcome.baked for outcome in outcomes})
    save_file(baked.state_dict(), folder / "baked.safetensors")
    plain = nn.ModuleDict({outcome.name: new_classifier() for outcome in outcomes})
    plain.load_state_dict(load_file(folder / "baked.safetensors"))
    images = digits.test[0]
    plain.to(images.device)
    difference = max(apart(outputs_of(baked[name], images), outputs_of(plain[name], images)) for name in baked)
    console.print(f"Wrote {folder / 'weights.png'}: the weights as attached and as trained.", soft_wrap=True)
    console.print(
        f"Wrote {folder / 'baked.safetensors'}: plain models load it, their outputs differ by {difference:.1e}.",
        soft_wrap=True,
    )


def _figure(outcomes: Sequence[Outcome]) -> Figure:
    figure = Figure(figsize=(11, 3.6 * len(outcomes)), layout="constrained")
    rows = figure.subplots(len(outcomes), 2 * len(CONSTRAINED), squeeze=False)
    for axes, outcome in zip(rows, outcomes, strict=True):
        panels = [image for pair in outcome.images for image in pair]
        limit = max(float(panel.abs().max()) for panel in panels) / 2
        for axis, panel, moment in zip(axes, panels, ("attached", "trained") * len(CONSTRAINED), strict=True):
            picture = axis.imshow(panel.cpu().numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set_title(f"{outcome.name}, {panel.shape[0]} x {panel.shape[1]}, {moment}", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        figure.colorbar(picture, ax=list(axes), extend="both", shrink=0.8)
    return figure
