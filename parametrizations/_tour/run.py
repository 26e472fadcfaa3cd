"""The tour: four constraints on copies of one trained classifier of real handwritten digits."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

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

from parametrizations import masks
from parametrizations.baking import bake
from parametrizations.diagonal import Diagonal
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.neg_exp_diagonal import NegExpDiagonal
from parametrizations.parametrization import Parametrization
from parametrizations.registration import register
from parametrizations.summaries import summary
from parametrizations.zero_diagonal import ZeroDiagonal

__all__ = ["run"]

PARAMETRIZATIONS: dict[str, Callable[[], Parametrization]] = {
    "Diagonal": Diagonal,
    "ZeroDiagonal": ZeroDiagonal,
    "NegExpDiagonal": NegExpDiagonal,
    "MaskedSparse": lambda: MaskedSparse(masks.magnitude(0.1)),
}
CONSTRAINED = ("2", "4")  # the square and the rectangular hidden layer
FIRST_EPOCHS = 20
BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images ``(n, 64)`` from 0 to 1 and their labels ``(n,)``, for training and for testing."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.train[0]) // BATCH)


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


def run(names: Sequence[str], epochs: int, device: torch.device | str, out: Path | None) -> None:
    """Train, constrain, train on, bake; print a table, and write the picture and the weights to ``out``."""
    console = Console()
    torch.manual_seed(0)
    digits = _digits(torch.device(device))
    with _progress(console) as progress:
        model = _trained_classifier(digits, progress, device)
        plain = _unconstrained(model, digits, epochs, progress)
        outcomes = [_constrain(name, model, digits, epochs, progress) for name in names]
    accuracy = _accuracy(model, digits.test)
    console.print(f"A classifier of 8 x 8 digits, trained without constraints: test accuracy {accuracy:.1%}.")
    console.print(_table([plain, *outcomes]))
    if out is not None:
        _write(out, outcomes, digits, console)


def _digits(device: torch.device) -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = (torch.as_tensor(part, device=device) for part in parts)
    return Digits((train.float(), train_labels), (test.float(), test_labels))


def _classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


def _trained_classifier(digits: Digits, progress: Progress, device: torch.device | str) -> nn.Sequential:
    model = _classifier().to(device)
    task = progress.add_task("without constraints", total=FIRST_EPOCHS * digits.steps)
    _train(model, digits, FIRST_EPOCHS, lambda: progress.advance(task))
    return model


def _train(model: nn.Module, digits: Digits, epochs: int, after_step: Callable[[], None]) -> float:
    """Train with Adam, and give back the median milliseconds of a step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, labels = digits.train
    durations = []
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images), device=images.device), BATCH):
            start = time.perf_counter()
            _step(model, optimizer, images[batch], labels[batch])
            durations.append(time.perf_counter() - start)
            after_step()
    return 1e3 * median(durations)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()


def _unconstrained(model: nn.Sequential, digits: Digits, epochs: int, progress: Progress) -> Outcome:
    """The yardstick: a copy that trains on for as long without any constraint."""
    twin = copy.deepcopy(model)
    task = progress.add_task("unconstrained copy", total=epochs * digits.steps)
    milliseconds = _train(twin, digits, epochs, lambda: progress.advance(task))
    before, after = _accuracy(model, digits.test), _accuracy(twin, digits.test)
    size = sum(_weight(twin.get_submodule(layer)).numel() for layer in CONSTRAINED)
    return Outcome("none", size, size, before, after, 0, epochs * digits.steps, milliseconds, 0.0, [], twin)


def _constrain(name: str, model: nn.Sequential, digits: Digits, epochs: int, progress: Progress) -> Outcome:
    """Attach one constraint to a copy of the classifier, train on, and bake the copy."""
    rules = {f"{layer}.weight": PARAMETRIZATIONS[name]() for layer in CONSTRAINED}
    twin = register(copy.deepcopy(model), rules)
    layers = [twin.get_submodule(layer) for layer in CONSTRAINED]
    task = progress.add_task(name, total=epochs * digits.steps)
    broken: list[bool] = []

    def check() -> None:
        broken.append(not all(map(_holds, layers)))
        progress.advance(task)

    before, accuracy = [_weight(layer) for layer in layers], _accuracy(twin, digits.test)
    milliseconds = _train(twin, digits, epochs, check)
    images = list(zip(before, [_weight(layer) for layer in layers], strict=True))
    rows, baked = summary(twin).rows, bake(twin)
    return Outcome(
        name=name,
        stored=sum(row.stored for row in rows),
        dense=sum(row.dense for row in rows),
        attached_accuracy=accuracy,
        trained_accuracy=_accuracy(twin, digits.test),
        violations=sum(broken),
        steps=epochs * digits.steps,
        milliseconds=milliseconds,
        baking_difference=_apart(_outputs(baked, digits.test[0]), _outputs(twin, digits.test[0])),
        images=images,
        baked=baked,
    )


def _holds(layer: nn.Module) -> bool:
    parametrization = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(parametrization, Parametrization)
    return parametrization.contains(_weight(layer))


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach().clone()


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    outputs = model(images)
    assert isinstance(outputs, Tensor)
    return outputs


def _accuracy(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    return float((_outputs(model, test[0]).argmax(1) == test[1]).float().mean())


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _table(outcomes: Sequence[Outcome]) -> Table:
    title = "The two hidden layers, 32 x 32 and 48 x 32, under each constraint"
    caption = "Tested: share of 450 unseen digits told right, as attached and as trained on."
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
    table.add_column("constraint", no_wrap=True)
    for header in COLUMNS:
        table.add_column(header, justify="right")
    for outcome in outcomes:
        table.add_row(*_cells(outcome, outcomes[0].milliseconds))
    return table


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


def _write(folder: Path, outcomes: Sequence[Outcome], digits: Digits, console: Console) -> None:
    """The picture, and the weights; these are read back into models that know nothing of constraints."""
    _figure(outcomes).savefig(folder / "weights.png", dpi=110)
    baked = nn.ModuleDict({outcome.name: outcome.baked for outcome in outcomes})
    save_file(baked.state_dict(), folder / "baked.safetensors")
    plain = nn.ModuleDict({outcome.name: _classifier() for outcome in outcomes})
    plain.load_state_dict(load_file(folder / "baked.safetensors"))
    images = digits.test[0]
    plain.to(images.device)
    apart = max(_apart(_outputs(baked[name], images), _outputs(plain[name], images)) for name in baked)
    console.print(f"Wrote {folder / 'weights.png'}: the weights as attached and as trained.", soft_wrap=True)
    console.print(
        f"Wrote {folder / 'baked.safetensors'}: plain models load it, their outputs differ by {apart:.1e}.",
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
