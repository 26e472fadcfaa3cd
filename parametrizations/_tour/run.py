"""Register each constraint on a copy of one trained classifier, train the copy, and bake it.

The results are a table, a picture, and a file of weights that plain models load.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from math import ceil, nan
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from parametrizations import bake, register, summary
from parametrizations.typing import Rules

NOISE = 0.2
"""The standard deviation of the noise. Pixels are between 0 and 1."""


class Digits(NamedTuple):
    """Noisy and clean images ``(n, 64)``, and labels ``(n,)``."""

    noisy: Tensor
    clean: Tensor
    labels: Tensor


def run(constraints: Mapping[str, Rules], epochs: int, device: torch.device, out: Path | None) -> None:
    """Train, constrain, train again and bake. Print a table; write the picture and the weights to ``out``, if given."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # layers this small gain nothing from more, and waiting threads slow a busy machine down
    console, table, baked = Console(), _new_table(), nn.ModuleDict()
    training, test = _load(device)
    model = _new_classifier().to(device)
    columns = TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        _train(model, progress.track(_batches(*training, 20), description="without constraints"))
        for name, rules in {"unconstrained": {}, **constraints}.items():
            copied = register(copy.deepcopy(model), rules)
            registered, rows = _accuracy(copied, test), summary(copied).rows
            held = _train(copied, progress.track(_batches(*training, epochs), description=name))
            figures = [f"{registered:.1%}", f"{_accuracy(copied, test):.1%}"]
            if rules:
                baked[name] = bake(copied)
                figures += [f"{sum(held)}/{len(held)}", f"{_apart(baked[name], copied, test):.1e}"]
            weights = [(" x ".join(map(str, row.shape)), f"{row.stored:,}", f"{row.dense:,}") for row in rows]
            for place, weight in enumerate(weights or [("-", "-", "-")]):
                table.add_row("" if place else name, *weight, *([] if place else figures))
    console.print(table)
    if out is not None:
        _write(out, baked, test, console)


def _train(model: nn.Sequential, steps: Iterable[Digits]) -> list[bool]:
    """Train with Adam to clean and classify, and return for each step whether every constraint held after it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    held = []
    for noisy, clean, labels in steps:
        optimizer.zero_grad()
        cleaned = model[0](noisy)
        loss = F.cross_entropy(model[1:](cleaned), labels) + 10 * F.mse_loss(cleaned, clean)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        held.append(all(row.holds for row in summary(model).rows))
    return held


def _load(device: torch.device) -> tuple[tuple[Tensor, Tensor], Digits]:
    """The digits of scikit-learn: images and labels for training; all other images, with noise, in one test batch."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = (torch.as_tensor(part, device=device) for part in parts)
    return (train.float(), train_labels), _batches(test.float(), test_labels, 1, size=len(test))[0]


def _batches(images: Tensor, labels: Tensor, epochs: int, size: int = 64) -> list[Digits]:
    """Shuffled batches with new noise in each epoch. Every call returns the same batches."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(epochs):
        noisy = images + NOISE * torch.randn(images.shape, generator=generator).to(images)
        order = torch.randperm(len(images), generator=generator).to(images.device)
        batches += [Digits(noisy[batch], images[batch], labels[batch]) for batch in torch.split(order, size)]
    return batches


def _new_classifier() -> nn.Sequential:
    """A linear layer that removes noise, and a convolutional classifier."""
    classifier = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    return nn.Sequential(nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)), *classifier)


@torch.no_grad()
def _accuracy(model: nn.Module, digits: Digits) -> float:
    """The fraction of correctly classified images."""
    return float((model(digits.noisy).argmax(1) == digits.labels).float().mean())


@torch.no_grad()
def _apart(one: nn.Module, other: nn.Module, digits: Digits) -> float:
    """The largest difference between the outputs of two models."""
    return float((one(digits.noisy) - other(digits.noisy)).abs().max())


def _new_table() -> Table:
    title = "A classifier of noisy 8 x 8 digits, trained further under each constraint"
    caption = (
        "stored: the numbers that the optimizer updates, instead of the dense ones\n"
        "registered, trained: the accuracy on unseen digits before and after training\n"
        "held: the steps after which every constraint held exactly\n"
        "bake: the largest change of an output by bake"
    )
    table = Table(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=0)
    for header in ("constraint", "weight", "stored", "dense", "registered", "trained", "held", "bake"):
        table.add_column(header, justify="left" if header in ("constraint", "weight") else "right", no_wrap=True)
    return table


def _write(folder: Path, baked: nn.ModuleDict, test: Digits, console: Console) -> None:
    """Write a picture of each constraint's linear weight and a file of all weights; load the file into plain models."""
    _figure(baked).savefig(folder / "weights.png", dpi=200)
    save_file(baked.state_dict(), folder / "baked.safetensors")
    plain = nn.ModuleDict({name: _new_classifier() for name in baked})
    plain.load_state_dict(load_file(folder / "baked.safetensors"))
    plain.to(test.noisy.device)
    difference = max(_apart(baked[name], plain[name], test) for name in baked)
    console.print(f"Wrote {folder / 'weights.png'}: the linear layer under each constraint.", soft_wrap=True)
    console.print(
        f"Wrote {folder / 'baked.safetensors'}: plain models load it, and their outputs differ by {difference:.1e}.",
        soft_wrap=True,
    )


def _figure(baked: nn.ModuleDict) -> Figure:
    """The weight of the linear layer under each constraint. Exact zeros are grey."""
    across, down = min(len(baked), 2), ceil(len(baked) / 2)
    figure = Figure(figsize=(1.3 + 2.9 * across, 0.4 + 3.1 * down), layout="constrained")
    for place, (name, model) in enumerate(baked.items(), 1):
        weight = model.get_parameter("0.weight").detach().cpu()
        shown = weight.where(weight != 0, nan).numpy()
        axis = figure.add_subplot(down, across, place, title=name, facecolor="0.7", xticks=[], yticks=[])
        image = axis.imshow(shown, "RdBu_r", interpolation="nearest", vmin=-0.3, vmax=0.3)
    figure.supxlabel("from noisy pixel")
    figure.supylabel("to clean pixel")
    figure.colorbar(image, ax=figure.axes, extend="both", shrink=0.6, label="weight; grey is exactly 0")
    return figure
