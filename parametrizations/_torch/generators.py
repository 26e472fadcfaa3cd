"""Random generators that a call may draw from: found in what the call is given, to put them back if it fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Generator, Tensor

__all__ = ["states_of"]

EACH, MOST = 1_000, 100_000


def states_of(held: Iterable[object]) -> list[tuple[Callable[[Tensor], Any], Tensor]]:
    """The state of every generator that objects hold, and of torch's own, each with what puts it back.

    Args:
        held: Modules, functions, or anything else. Looked into are attributes, containers, and what functions have
            bound; not the global names that a function uses. Of each container the first `EACH` entries, and no more
            than `MOST` objects: a rule may hold the data that it was made from, and draws from a generator nearby.
    """
    found = dict.fromkeys(_reachable(held))
    own = [(torch.set_rng_state, torch.get_rng_state())]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = range(torch.cuda.device_count())
        own += [
            (partial(torch.cuda.set_rng_state, device=device), torch.cuda.get_rng_state(device)) for device in devices
        ]
    return [*own, *((generator.set_state, generator.get_state()) for generator in found)]


def _reachable(held: Iterable[object]) -> Iterator[Generator]:
    """The generators among what is held, the nearest first."""
    seen: dict[int, object] = {}
    waiting = deque(held)
    while waiting and len(seen) < MOST:
        one = waiting.popleft()
        if id(one) not in seen:
            seen[id(one)] = one  # kept, or its id might be taken again
            if isinstance(one, Generator):
                yield one
            waiting.extend(islice(_inside(one), EACH))


def _inside(one: object) -> Iterable[object]:
    if isinstance(one, dict):
        return one.values()
    if isinstance(one, list | tuple | set | frozenset):
        return one
    if isinstance(one, partial):
        return one.func, one.args, one.keywords
    if isinstance(one, MethodType):
        return one.__self__, one.__func__
    if isinstance(one, FunctionType):
        return one.__closure__ or (), one.__defaults__, one.__kwdefaults__
    if isinstance(one, CellType):
        return _contents(one)
    if isinstance(one, Tensor | ModuleType | type):
        return ()
    return (getattr(one, "__dict__", None),)


def _contents(cell: CellType) -> tuple[object, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not filled yet
        return ()
