"""How much of the stored matrix is copied for another diagonal."""

from __future__ import annotations

import pytest
import torch

from parametrizations._products import replaced_diagonal


def test_a_matrix_that_is_the_weight_already_is_not_copied() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    weight = replaced_diagonal._whole(x, torch.ones(2))
    assert weight is not None
    assert weight.data_ptr() == x.data_ptr()
    assert not weight.requires_grad


def test_a_small_matrix_is_copied_whole_and_a_large_one_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(3, 2)
    monkeypatch.setattr(replaced_diagonal, "COPIED", x.numel())
    weight = replaced_diagonal._whole(x, torch.tensor([5.0, 6.0]))
    assert weight is not None
    assert weight.tolist() == [[5, 1], [1, 6], [1, 1]]
    assert x.tolist() == [[1, 1]] * 3
    monkeypatch.setattr(replaced_diagonal, "COPIED", x.numel() - 1)
    assert replaced_diagonal._whole(x, torch.zeros(2)) is None
