"""What is built from a stored tensor once in a loop over time, inside `torch.nn.utils.parametrize.cached`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from parametrizations._torch.private import answered_from_cache, version_of

__all__ = ["once"]

Built = TypeVar("Built")


def once(owner: object, x: Tensor, build: Callable[[], Built], *kind: object) -> Built:
    """What ``build`` makes of a stored tensor: inside ``cached()`` of before, for as long as the tensor is the same.

    Anew where the tensor was changed, or gradients are switched on or off, since what is built may carry a graph.

    Args:
        owner: For whom: one thing is kept for each.
        x: What it is built from.
        build: Called without arguments.
        kind: What else it depends on, such as the dtype under autocast.
    """
    cache: Any = answered_from_cache()  # whose own values are tensors
    if cache is None or torch.compiler.is_compiling():
        return build()
    state = _state(x, kind)
    known = cache.get((owner, once))
    if isinstance(known, _Known) and known.x is x and known.state == state:
        return cast(Built, known.built)
    built = build()
    cache[owner, once] = _Known(x, state, built)
    return built


class _Known:
    """Holds the tensor, too, so that no other one takes its place in memory."""

    def __init__(self, x: Tensor, state: tuple[object, ...], built: object) -> None:
        self.x, self.state, self.built = x, state, built


def _state(x: Tensor, kind: tuple[object, ...]) -> tuple[object, ...]:
    return version_of(x), torch.is_grad_enabled(), *kind
