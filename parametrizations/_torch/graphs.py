"""Computed tensors that modules keep after a forward pass. `copy.deepcopy` refuses to copy a tensor with its graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["spare_graphs"]


def spare_graphs(memo: dict[int, Any], attributes: Iterable[object]) -> None:
    """Let `copy.deepcopy` copy computed tensors without their graph.

    Recurrent layers keep a list of their computed weights, and pruned layers keep the pruned weight. Both compute them
    again at the next forward pass.

    Args:
        memo: The second argument of `copy.deepcopy`; changed in place.
        attributes: The values of a module's attributes.
    """
    for value in attributes:
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor) and not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
                memo.setdefault(id(memo), []).append(tensor)  # kept alive, as deepcopy does, so its id is not reused
