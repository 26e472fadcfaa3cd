"""Attach each constraint to a copy of one trained classifier, train the copy on, and bake it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn
from torch.nn import functional as F

from parametrizations import Parametrization, bake, register, summary
from parametrizations._tour.classifier import HIDDEN, Digits, accuracy, apart, batches, load, new_classifier
from parametrizations._tour.report import Outcome, table, write

Constraints = Mapping[str, Callable[[], Parametrization]]


def run(constraints: Constraints, epochs: int, device: torch.device, out: Path | None) -> None:
    """Train, constrain, train on and bake. Print a table, and write the picture and the weights to ``out``."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # layers this small gain nothing from more, and waiting threads slow a busy machine down
    console = Console()
    training, test = load(device)
    model = new_classifier().to(device)
    with _progress(console) as progress:
        _train(model, progress.track(batches(training, 20), description="without constraints"))
        outcomes = []
        for name in ("unconstrained", *constraints):
            rules = {f"{layer}.weight": constraints[name]() for layer in HIDDEN if name in constraints}
            steps = progress.track(batches(training, epochs), description=name if rules else "unconstrained copy")
            outcomes.append(_outcome(name, register(copy.deepcopy(model), rules), steps, test))
    share = accuracy(model, test)
    console.print(f"A classifier of 8 x 8 digits, trained without constraints: test accuracy {share:.1%}.")
    console.print(table(outcomes))
    if out is not None:
        write(out, outcomes, test, console)


def _outcome(name: str, model: nn.Sequential, steps: Iterable[Digits], test: Digits) -> Outcome:
    """Train a copy of the classifier, constrained or not, and bake it before and after."""
    right, attached = accuracy(model, test), bake(model)
    held = _train(model, steps)
    rows, trained = summary(model).rows, bake(model)
    dense = sum(trained.get_parameter(f"{layer}.weight").numel() for layer in HIDDEN)
    stored = sum(row.stored for row in rows) if rows else dense
    checks = (f"{sum(held)}/{len(held)}", f"{apart(trained, model, test):.1e}") if rows else ("-", "-")
    figures = f"{stored:,}", f"{dense:,}", f"{right:.1%}", f"{accuracy(model, test):.1%}", *checks
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


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    return Progress(*columns, TimeElapsedColumn(), console=console)
