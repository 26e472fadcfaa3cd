"""Tensors that modules keep from a forward pass are copied without their graph."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch

from parametrizations._torch.chains import spare_graphs


def test_computed_tensors_are_copied_alone_and_in_lists() -> None:
    leaf = torch.ones(2, requires_grad=True)
    kept: list[Any] = [2 * leaf, [3 * leaf, None], leaf]
    memo: dict[int, Any] = {}
    spare_graphs(memo, kept)
    alone, (listed, nothing), other = copy.deepcopy(kept, memo)
    assert alone.tolist() == [2, 2]
    assert listed.tolist() == [3, 3]
    assert alone.is_leaf
    assert listed.is_leaf
    assert nothing is None
    assert other.requires_grad


def test_the_memo_keeps_the_original_tensors_alive() -> None:
    memo: dict[int, Any] = {}
    computed = 2 * torch.ones(2, requires_grad=True)
    alive = weakref.ref(computed)
    spare_graphs(memo, [computed])
    del computed
    assert alive() is not None
