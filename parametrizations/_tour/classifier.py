"""The classifier of handwritten digits, and its data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HIDDEN = ("2", "4")
"""The constrained layers: a square one and a rectangular one."""


class Digits(NamedTuple):
    """Images ``(n, 64)``, with values from 0 to 1, and their labels ``(n,)``."""

    images: Tensor
    labels: Tensor


def load(device: torch.device) -> tuple[Digits, Digits]:
    """The digits that scikit-learn ships, for training and for testing."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0, stratify=labels)
    train, test, train_labels, test_labels = (torch.as_tensor(part, device=device) for part in parts)
    return Digits(train.float(), train_labels), Digits(test.float(), test_labels)


def batches(digits: Digits, epochs: int) -> list[Digits]:
    """Shuffled batches of 64, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(digits.images), generator=generator) for _ in range(epochs)]
    places = [batch.to(digits.images.device) for order in orders for batch in torch.split(order, 64)]
    return [Digits(digits.images[batch], digits.labels[batch]) for batch in places]


def new_classifier() -> nn.Sequential:
    """The untrained classifier."""
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
def accuracy(model: nn.Module, digits: Digits) -> float:
    """The fraction of correctly classified images."""
    return float((model(digits.images).argmax(1) == digits.labels).float().mean())


@torch.no_grad()
def apart(one: nn.Module, other: nn.Module, digits: Digits) -> float:
    """The largest difference between the outputs of two models."""
    return float((one(digits.images) - other(digits.images)).abs().max())
