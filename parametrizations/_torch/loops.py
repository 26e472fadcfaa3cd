"""Memoisation inside `torch.nn.utils.parametrize.cached`, for loops over time."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from parametrizations._torch.private import answered_from_cache, clear_cache, contents, is_traced
from parametrizations._torch.transforms import is_recorded

Computed = TypeVar("Computed")

_NOTHING = (None, None, (), ())


def once(owner: object, x: Tensor | tuple[Tensor, ...], compute: Callable[[], Computed], *kind: object) -> Computed:
    """The result of ``compute``, memoised inside ``cached()`` as PyTorch memoises the weight.

    It is computed again if ``kind`` or the grad mode differs, or if a stored tensor was replaced, frozen, unfrozen or
    changed in place. A step of a fused optimizer does not raise PyTorch's version counter, and remains unnoticed.
    Activation checkpointing runs code twice, so nothing is memoised there. Under a compiler or a tracer nothing is
    memoised either, since a recorded value must not be used outside.

    Args:
        owner: The key. Each key has one result.
        x: The stored tensors that the result depends on.
        compute: Returns a tensor, None, or a tuple of tensors and None values. Other results, such as the proxies of
            `torch.fx`, are not memoised.
        kind: Further values that the result depends on, such as the dtype under autocast.
    """
    cache: Any = answered_from_cache()  # no key collides: PyTorch's are pairs of a number and a name
    if cache is None or is_recorded() or is_traced():
        return compute()
    stored = (x,) if isinstance(x, Tensor) else x
    state = (kind, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), tuple(map(contents, stored)))
    known, memoised, before, _ = cache.get(owner, _NOTHING)
    if known == state and all(map(operator.is_, before, stored)):
        return cast(Computed, memoised)
    result = compute()
    if result is None or isinstance(result, Tensor | tuple):
        memory = [tensor.detach() for tensor in stored]  # alive, so that new data gets another address
        cache[owner] = state, result, stored, memory
    return result


def forget() -> None:
    """Clear all memoised results, since one tensor may be part of several results."""
    clear_cache()
