"""Failures at every line of a call, up to the commit."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from parametrizations import Diagonal, bake, register
from tools.injection import Injected, everything, fail_at, failures, held_by


def test_each_line_before_the_commit_fails_once() -> None:
    model = register(nn.Sequential(nn.Linear(3, 3)), {"0.weight": Diagonal()})
    bake(model)  # fill the caches
    lines = fail_at(0, lambda: bake(model))
    with pytest.raises(Injected):
        fail_at(lines, lambda: bake(model))
    assert fail_at(lines + 1, lambda: bake(model)) == lines
    assert list(failures(lambda: bake(model))) == list(range(1, lines + 1))


def test_changes_of_every_kind_are_seen() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer)
    seen = [everything(model)]
    layer.weight.data[0, 0] = 7
    seen.append(everything(model))
    layer.weight.requires_grad_(False)
    seen.append(everything(model))
    model.register_forward_hook(lambda *_: None)
    seen.append(everything(model))
    model[0] = nn.Linear(3, 3)
    seen.append(everything(model))
    assert all(one != other for one, other in pairwise(seen))
    optimizer = torch.optim.SGD(layer.parameters(), momentum=0.9)
    before = held_by(optimizer)
    optimizer.state[layer.bias]["momentum_buffer"] = torch.ones(3)
    assert held_by(optimizer) != before
