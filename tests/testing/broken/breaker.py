"""What the themes list: for each law the parametrizations that break it, and what the law says to each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import override

from parametrizations import ZeroDiagonal

__all__ = ["Breakers", "KeepsItsProjection"]

Breakers = dict[str, list[tuple[Callable[[], nn.Module], str]]]


class KeepsItsProjection(ZeroDiagonal):
    """To derive from with another ``forward``: registering still projects as it should."""

    @override
    def project(self, weight: Tensor) -> Tensor:
        return ZeroDiagonal.forward(self, weight)
