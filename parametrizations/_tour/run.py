"""The tour: four constraints on copies of one trained classifier of real handwritten digits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    Parametrization,
    ZeroDiagonal,
    bake,
    masks,
    register,
    summary,
)
from parametrizations._tour.classifier import (
    CONSTRAINED,
    Digits,
    accuracy_of,
    apart,
    load,
    new_classifier,
    outputs_of,
    train,
)
from parametrizations._tour.report import UNCONSTRAINED, Outcome, table, write

__all__ = ["run"]

PARAMETRIZATIONS: dict[str, Callable[[], Parametrization]] = {
    "Diagonal": Diagonal,
    "ZeroDiagonal": ZeroDiagonal,
    "NegExpDiagonal": NegExpDiagonal,
    "MaskedSparse": lambda: MaskedSparse(masks.magnitude(density=0.1)),
}


FIRST_EPOCHS = 20


def run(names: Sequence[str], epochs: int, device: torch.device | str, out: Path | None) -> None:
    """Train, constrain, train on, bake; print a table, and write the picture and the weights to ``out``."""
    console = Console()
    torch.manual_seed(0)
    digits = load(torch.device(device))
    with _one_thread(), _progress(console) as progress:
        model = _trained_classifier(digits, progress, device)
        plain = _unconstrained(model, digits, epochs, progress)
        outcomes = [_constrain(name, model, digits, epochs, progress) for name in names]
    accuracy = accuracy_of(model, digits.test)
    console.print(f"A classifier of 8 x 8 digits, trained without constraints: test accuracy {accuracy:.1%}.")
    console.print(table([plain, *outcomes]))
    if out is not None:
        write(out, [plain, *outcomes], digits, console)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small gain nothing from a second one; on a busy machine threads that wait cost most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained_classifier(digits: Digits, progress: Progress, device: torch.device | str) -> nn.Sequential:
    model = new_classifier().to(device)
    task = progress.add_task("without constraints", total=FIRST_EPOCHS * digits.steps)
    train(model, digits, FIRST_EPOCHS, lambda: progress.advance(task))
    return model


def _unconstrained(model: nn.Sequential, digits: Digits, epochs: int, progress: Progress) -> Outcome:
    """What to compare with: a copy that trains on for as long without any constraint."""
    twin, before = copy.deepcopy(model), _weights(model)
    task = progress.add_task("unconstrained copy", total=epochs * digits.steps)
    train(twin, digits, epochs, lambda: progress.advance(task))
    size = sum(weight.numel() for weight in before)
    return Outcome(
        name=UNCONSTRAINED,
        stored=size,
        dense=size,
        attached_accuracy=accuracy_of(model, digits.test),
        trained_accuracy=accuracy_of(twin, digits.test),
        held=[],
        baking_difference=0.0,
        images=list(zip(before, _weights(twin), strict=True)),
        baked=twin,
    )


def _constrain(name: str, model: nn.Sequential, digits: Digits, epochs: int, progress: Progress) -> Outcome:
    """Attach one constraint to a copy of the classifier, train on, and bake the copy."""
    rules = {f"{layer}.weight": PARAMETRIZATIONS[name]() for layer in CONSTRAINED}
    twin, test = register(copy.deepcopy(model), rules), digits.test
    before, attached = _weights(twin), accuracy_of(twin, test)
    task = progress.add_task(name, total=epochs * digits.steps)
    held = _train_and_watch(twin, digits, epochs, lambda: progress.advance(task))
    rows, baked = summary(twin).rows, bake(twin)
    return Outcome(
        name=name,
        stored=sum(row.stored for row in rows),
        dense=sum(row.dense for row in rows),
        attached_accuracy=attached,
        trained_accuracy=accuracy_of(twin, test),
        held=held,
        baking_difference=apart(outputs_of(baked, test[0]), outputs_of(twin, test[0])),
        images=list(zip(before, _weights(twin), strict=True)),
        baked=baked,
    )


def _train_and_watch(model: nn.Sequential, digits: Digits, epochs: int, after_step: Callable[[], None]) -> list[bool]:
    """For each step whether every constraint held after it."""
    held: list[bool] = []

    def watch() -> None:
        held.append(all(_holds(model.get_submodule(layer)) for layer in CONSTRAINED))
        after_step()

    train(model, digits, epochs, watch)
    return held


def _holds(layer: nn.Module) -> bool:
    parametrization = layer.get_submodule("parametrizations.weight.0")
    assert isinstance(parametrization, Parametrization)
    return parametrization.contains(_weight(layer))


def _weights(model: nn.Module) -> list[Tensor]:
    return [_weight(model.get_submodule(layer)) for layer in CONSTRAINED]


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach().clone()


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    return Progress(*columns, TimeElapsedColumn(), console=console)
