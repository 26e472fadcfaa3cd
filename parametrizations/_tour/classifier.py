"""The classifier of handwritten digits that the constraints are attached to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CONSTRAINED", "Digits", "accuracy_of", "apart", "load", "new_classifier", "outputs_of", "train"]

CONSTRAINED = ("2", "4")  # the square and the rectangular hidden layer


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


def load(device: torch.device) -> Digits:
    """The digits that come with scikit-learn, on a device."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = (torch.as_tensor(part, device=device) for part in parts)
    return Digits((train.float(), train_labels), (test.float(), test_labels))


def new_classifier() -> nn.Sequential:
    """The classifier, not trained yet."""
    return nn.Sequential(
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


def train(model: nn.Module, digits: Digits, epochs: int, after_step: Callable[[], None]) -> None:
    """Train with Adam, on the same batches in the same order for every model."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(0)
    images, labels = digits.train
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images), generator=order).to(images.device), BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            after_step()


@torch.no_grad()
def outputs_of(model: nn.Module, images: Tensor) -> Tensor:
    """What a model says of images, ``(n, 10)``."""
    outputs = model(images)
    assert isinstance(outputs, Tensor)
    return outputs


def accuracy_of(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """The share of images whose digit a model names rightly."""
    return float((outputs_of(model, test[0]).argmax(1) == test[1]).float().mean())


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference between two tensors."""
    return float((one - other).abs().max())
