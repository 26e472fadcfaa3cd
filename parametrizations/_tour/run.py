"""Attach each constraint to a copy of one trained classifier, train the copy on, and bake it.

The results are a table, a picture, and a file of weights that plain models load.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from parametrizations import Parametrization, bake, register, summary

HIDDEN = ("2", "4")
"""The constrained layers: a square one and a rectangular one."""


class Digits(NamedTuple):
    """Images ``(n, 64)``, with values from 0 to 1, and their labels ``(n,)``."""

    images: Tensor
    labels: Tensor


class Outcome(NamedTuple):
    """One copy of the classifier: its figures for the table, and plain copies of it when attached and when trained."""

    name: str
    figures: Sequence[str]
    plain: Mapping[Literal["attached", "trained"], nn.Module]


def run(
    constraints: Mapping[str, Callable[[], Parametrization]], epochs: int, device: torch.device, out: Path | None
) -> None:
    """Train, constrain, train on and bake. Print a table, and write the picture and the weights to ``out``."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # layers this small gain nothing from more, and waiting threads slow a busy machine down
    console = Console()
    training, test = _load(device)
    model = _new_classifier().to(device)
    columns = TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        _train(model, progress.track(_batches(training, 20), description="without constraints"))
        outcomes = []
        for name in ("unconstrained", *constraints):
            rules = {f"{layer}.weight": constraints[name]() for layer in HIDDEN if name in constraints}
            steps = progress.track(_batches(training, epochs), description=name if rules else "unconstrained copy")
            outcomes.append(_outcome(name, register(copy.deepcopy(model), rules), steps, test))
    share = _accuracy(model, test)
    console.print(f"A classifier of 8 x 8 digits, trained without constraints: test accuracy {share:.1%}.")
    console.print(_table(outcomes))
    if out is not None:
        _write(out, outcomes, test, console)


def _outcome(name: str, model: nn.Sequential, steps: Iterable[Digits], test: Digits) -> Outcome:
    """Train a copy of the classifier, constrained or not, and bake it before and after."""
    right, attached = _accuracy(model, test), bake(model)
    held = _train(model, steps)
    rows, trained = summary(model).rows, bake(model)
    dense = sum(trained.get_parameter(f"{layer}.weight").numel() for layer in HIDDEN)
    stored = sum(row.stored for row in rows) if rows else dense
    checks = (f"{sum(held)}/{len(held)}", f"{_apart(trained, model, test):.1e}") if rows else ("-", "-")
    figures = f"{stored:,}", f"{dense:,}", f"{right:.1%}", f"{_accuracy(model, test):.1%}", *checks
    return Outcome(name, figures, {"attached": attached, "trained": trained})


def _train(model: nn.Sequential, steps: Iterable[Digits]) -> list[bool]:
    """Train with Adam, and return for each step whether every constraint held after it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    held = []
    for images, labels in steps:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        held.append(all(row.holds for row in summary(model).rows))
    return held


def _load(device: torch.device) -> tuple[Digits, Digits]:
    """The digits that scikit-learn ships, for training and for testing."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = (torch.as_tensor(part, device=device) for part in parts)
    return Digits(train.float(), train_labels), Digits(test.float(), test_labels)


def _batches(digits: Digits, epochs: int) -> list[Digits]:
    """Shuffled batches of 64, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(digits.images), generator=generator) for _ in range(epochs)]
    places = [batch.to(digits.images.device) for order in orders for batch in torch.split(order, 64)]
    return [Digits(digits.images[batch], digits.labels[batch]) for batch in places]


def _new_classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


@torch.no_grad()
def _accuracy(model: nn.Module, digits: Digits) -> float:
    """The fraction of correctly classified images."""
    return float((model(digits.images).argmax(1) == digits.labels).float().mean())


@torch.no_grad()
def _apart(one: nn.Module, other: nn.Module, digits: Digits) -> float:
    """The largest difference between the outputs of two models."""
    return float((one(digits.images) - other(digits.images)).abs().max())


def _table(outcomes: Sequence[Outcome]) -> Table:
    title = "The two hidden layers, 32 x 32 and 48 x 32, under each constraint"
    caption = (
        "Right: the share of 450 unseen digits that are named rightly, just after attaching the constraint "
        "and after training on. Held after: the steps after which every constraint was kept exactly."
    )
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
    table.add_column("constraint", no_wrap=True)
    for header in (
        "numbers stored",
        "of a dense weight",
        "right when attached",
        "right when trained",
        "held after",
        "bake changes outputs by",
    ):
        table.add_column(header, justify="right")
    for outcome in outcomes:
        table.add_row(outcome.name, *outcome.figures)
    return table


def _write(folder: Path, outcomes: Sequence[Outcome], test: Digits, console: Console) -> None:
    """Write the picture and the weights under each constraint, and load the weights into plain models.

    The first outcome is the unconstrained copy: it is in the picture, but not in the file of weights.
    """
    _figure(outcomes).savefig(folder / "weights.png", dpi=110)
    baked = nn.ModuleDict({outcome.name: outcome.plain["trained"] for outcome in outcomes[1:]})
    save_file(baked.state_dict(), folder / "baked.safetensors")
    plain = nn.ModuleDict({name: _new_classifier() for name in baked})
    plain.load_state_dict(load_file(folder / "baked.safetensors"))
    plain.to(test.images.device)
    difference = max(_apart(baked[name], plain[name], test) for name in baked)
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
