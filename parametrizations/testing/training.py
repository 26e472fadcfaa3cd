"""Laws about training a layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from parametrizations.testing.requirements import require, require_equal
from parametrizations.testing.subject import Subject, dense, loss, parametrization_of, set_stored, stored

OPTIMIZERS: tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], ...] = (
    lambda p: torch.optim.SGD(p, lr=10.0, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.RMSprop(p, lr=10.0, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adagrad(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.LBFGS(p, lr=10.0, max_iter=3),
)


def optimizers_stay_in_the_set(subject: Subject) -> None:
    """Steps of every optimizer, with weight decay, momentum and an absurdly large rate, stay in the set."""
    for optimizer_of in OPTIMIZERS:
        layer = subject.layer()
        optimizer = optimizer_of(list(layer.parameters()))
        for _ in range(3):
            optimizer.step(partial(_closure, layer, subject.inputs(3)))
            if not bool(stored(layer).isfinite().all()):
                break
            inside = parametrization_of(layer).contains(dense(layer))
            require(inside, f"A step of {type(optimizer).__name__} moved the weight out of the set.")


def copies_are_independent(subject: Subject) -> None:
    """A deep copy has the same weight, and training it leaves the original alone."""
    layer = subject.layer()
    weight, twin = dense(layer), copy.deepcopy(layer)
    require_equal(dense(twin), weight, "The copy's weight")
    set_stored(twin, stored(twin) * 2 + 1)
    dense(twin)  # a parametrization may keep statistics of its weights
    require_equal(dense(layer), weight, "The original's weight, after a change to the copy,")


def _closure(layer: Any, inputs: Tensor) -> float:
    layer.zero_grad()
    value = loss(layer(inputs))
    value.backward()  # type: ignore[no-untyped-call]
    return float(value)
