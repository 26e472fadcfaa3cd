"""The type of the lists in this folder: for each law, parametrizations that break it and the law's messages."""

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
