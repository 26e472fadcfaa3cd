"""`MaskRule`: a named function from a weight to a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["MaskRule"]


@dataclass(frozen=True, eq=False)
class MaskRule:
    """A named function from a weight, ``(out, in)``, to a boolean mask of the same shape.

    Copies share the rule, and so a `torch.Generator` in it: layers that are given copies of one
    parametrization draw different masks.

    Args:
        name: What `repr` shows.
        build: The function.

    Example:
        >>> import torch
        >>> checkerboard = MaskRule("checkerboard", lambda weight: torch.eye(2).repeat(2, 2).bool())
        >>> checkerboard(torch.zeros(4, 4)).int()
        tensor([[1, 0, 1, 0],
                [0, 1, 0, 1],
                [1, 0, 1, 0],
                [0, 1, 0, 1]], dtype=torch.int32)
    """

    name: str
    build: Callable[[Tensor], Tensor]

    def __call__(self, weight: Tensor) -> Tensor:
        """The mask for a weight, ``(out, in)``."""
        return self.build(weight)

    def __deepcopy__(self, memo: dict[int, object]) -> MaskRule:
        return self

    def __repr__(self) -> str:
        return self.name
