"""What is built from a stored tensor once in a loop over time, inside `torch.nn.utils.parametrize.cached`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from parametrizations._torch.private import answered_from_cache, are_transforms_active, changes, is_traced
from parametrizations._torch.transforms import is_recorded

__all__ = ["forget", "once"]

Built = TypeVar("Built")


def once(owner: object, x: Tensor | tuple[Tensor, ...], build: Callable[[], Built], *kind: object) -> Built:
    """What ``build`` makes of stored tensors: inside ``cached()`` of before, for as long as they are the same.

    Anew where one was changed, or gradients are switched on or off, since what is built may carry a graph. PyTorch's
    own cache goes on answering with what was built first. What is recorded is built each time: a compiler sees what
    is the same, and nothing that it has recorded may be met outside.

    Args:
        owner: For whom: one thing is kept for each.
        x: What it is built from.
        build: Called without arguments; gives a tensor, some of them, or None. What else it gives, as the stand-ins of
            `torch.fx` are, is not kept.
        kind: What else it depends on, such as the dtype under autocast.
    """
    cache: Any = answered_from_cache()  # whose own values are tensors
    if cache is None or is_recorded() or is_traced():
        return build()
    stored = (x,) if isinstance(x, Tensor) else x
    state = (torch.is_grad_enabled(), *map(_contents, stored), *kind)
    known = cache.get((owner, once))
    if isinstance(known, _Known) and known.is_of(stored, state):
        return cast(Built, known.built)
    built = build()
    if built is None or isinstance(built, Tensor | tuple):
        cache[owner, once] = _Known(stored, state, built)
    return built


def forget() -> None:
    """Have everything built anew inside of ``cached()``: all, since one tensor may be built into what is kept."""
    cache = answered_from_cache()
    if cache:
        cache.clear()


class _Known:
    """Holds the tensors and their memory, too, so that no others take their place."""

    def __init__(self, stored: tuple[Tensor, ...], state: tuple[object, ...], built: object) -> None:
        self.stored, self.state, self.built = stored, state, built
        self.memory = [x.detach() for x in stored]

    def is_of(self, stored: tuple[Tensor, ...], state: tuple[object, ...]) -> bool:
        same = len(stored) == len(self.stored) and all(map(operator.is_, stored, self.stored))
        return same and state == self.state


def _contents(x: Tensor) -> tuple[int, int]:
    """Tells a tensor from what it is after a change: of its numbers, or of the memory that they are in."""
    return changes(x), 0 if are_transforms_active() else x.data_ptr()
