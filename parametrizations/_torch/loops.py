"""What is built from a stored tensor once in a loop over time, inside `torch.nn.utils.parametrize.cached`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from parametrizations._torch.private import answered_from_cache, are_transforms_active, contents, is_traced
from parametrizations._torch.transforms import is_recorded

__all__ = ["forget", "once", "went_backward"]

Built = TypeVar("Built")


def once(owner: object, x: Tensor | tuple[Tensor, ...], build: Callable[[], Built], *kind: object) -> Built:
    """What ``build`` makes of stored tensors: inside ``cached()`` of before, for as long as they are the same.

    Anew where one was changed, frozen or not any more, or gradients are switched on or off, since what is built may
    carry a graph; and after a backward pass through anything that was built, whose graph is gone, and which a step of
    an optimizer may follow: PyTorch does not count those of fused ones as changes. PyTorch's own cache goes on
    answering with what was built first. What is recorded is built each time: a compiler sees what is the same, and
    nothing that it has recorded may be met outside.

    Args:
        owner: For whom: one thing is kept for each.
        x: What it is built from.
        build: Called without arguments; gives a tensor, some of them, or None. What else it gives, as the stand-ins of
            `torch.fx` are, is not kept.
        kind: What else it depends on, such as the dtype under autocast.
    """
    cache: Any = answered_from_cache()  # whose own values are tensors, and whose keys tuples of a number and a name
    if cache is None or is_recorded() or is_traced():
        return build()
    known = cache.get(owner)
    if known is not None and known.is_of(x, kind):
        return cast(Built, known.built)
    built = build()
    if built is None or isinstance(built, Tensor | tuple):
        cache[owner] = _Known(x, kind, built)
    return built


def went_backward() -> None:
    """Have all built anew inside of ``cached()``, after a backward pass that leaves no mark on what was built."""
    if answered_from_cache() and not is_recorded():
        _PASSES.count += 1


def forget() -> None:
    """Have everything built anew inside of ``cached()``: all, since one tensor may be built into what is kept."""
    cache = answered_from_cache()
    if cache:
        cache.clear()


class _Passes:
    """The number of backward passes through what was built, by whomever: a step of an optimizer changes all of it."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, _: Tensor) -> None:
        """A hook on what was built, which holds nothing of it."""
        self.count += 1


_PASSES = _Passes()


class _Known:
    """Holds the tensors and their memory, too, so that no others take their place."""

    def __init__(self, x: Tensor | tuple[Tensor, ...], kind: tuple[object, ...], built: object) -> None:
        self.x, self.kind, self.built, self.with_graph = x, kind, built, torch.is_grad_enabled()
        self.in_inference = torch.is_inference_mode_enabled()  # what is built there cannot be trained with
        self.contents = contents(x) if isinstance(x, Tensor) else tuple(map(contents, x))
        self.memory = [one.detach() for one in ((x,) if isinstance(x, Tensor) else x)]
        self.passes = _PASSES.count
        if not are_transforms_active():
            for part in built if isinstance(built, tuple) else (built,):
                if isinstance(part, Tensor) and part.grad_fn is not None:
                    part.register_hook(_PASSES.add)  # type: ignore[no-untyped-call]

    def is_of(self, x: Tensor | tuple[Tensor, ...], kind: tuple[object, ...]) -> bool:
        """In few steps, since the time of a small layer is that of such questions."""
        if self.passes != _PASSES.count or kind != self.kind or torch.is_grad_enabled() is not self.with_graph:
            return False
        if self.in_inference and not torch.is_inference_mode_enabled():
            return False
        if isinstance(x, Tensor):
            return x is self.x and contents(x) == self.contents
        same = len(x) == len(self.x) and all(map(operator.is_, x, self.x))
        return same and tuple(map(contents, x)) == self.contents
