"""The limit on the size of a checkpoint, from both sides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from parametrizations import ZeroDiagonal
from parametrizations.testing.requirements import Broken
from parametrizations.testing.rest_of_pytorch import checkpoint_is_compact
from parametrizations.testing.subject import Subject
from tests.cases import weight
from tests.testing.broken.rest_of_pytorch import SavesAText

ALLOWED = 4 * 3 * 12 + 64
"""Bytes beside the numbers of a weight of 4 x 3 and the bias."""


class SavesStructure(ZeroDiagonal):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.register_buffer("structure", torch.zeros(self.size, dtype=torch.uint8))


def test_twelve_bytes_for_each_number_and_no_more() -> None:
    checkpoint_is_compact(Subject(SavesStructure(ALLOWED), weight((4, 3))))
    with pytest.raises(Broken, match=r"The checkpoint holds 273 bytes for 12 stored numbers\."):
        checkpoint_is_compact(Subject(SavesStructure(ALLOWED + 1), weight((4, 3))))


def test_only_tensors_count_as_size() -> None:
    checkpoint_is_compact(Subject(SavesAText(), weight((4, 3))))
