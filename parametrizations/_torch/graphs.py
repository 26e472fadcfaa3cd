"""What modules keep of their last pass: computed tensors, which `copy.deepcopy` refuses to copy with their graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

__all__ = ["spare_graphs"]


def spare_graphs(memo: dict[int, Any], attributes: Iterable[object]) -> None:
    """Let `copy.deepcopy` copy computed tensors without their graph.

    Recurrent layers keep a list of the weights that they computed last, and pruned layers the weight; both compute
    it anew at their next step.

    Args:
        memo: What is passed to `copy.deepcopy`; changed in place.
        attributes: The values of a module's attributes.
    """
    for value in attributes:
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor) and not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
                memo.setdefault(id(memo), []).append(tensor)  # as deepcopy does: its id must not be taken again
