"""Equal masks on all ranks of `DistributedDataParallel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["require_same_masks"]

_ODD = (0x9E3779B97F4A7C15 - 2**64, 0x94D049BB133111EB - 2**64)
"""Multipliers of splitmix64, which spreads near numbers far apart (Steele, Lea and Flood 2014)."""


def require_same_masks(model: nn.Module, positions: Mapping[str, Tensor], before: Mapping[str, int]) -> None:
    """Require equal masks on all ranks, with as many entries as before, if the model or a part of it is wrapped.

    Every rank raises the error if any two masks differ.
    """
    wrapper = next((part for part in model.modules() if isinstance(part, DistributedDataParallel)), None)
    if wrapper is None:
        return
    own = [_digest(places) for places in positions.values()]
    all_ranks: list[Sequence[int]] = [own] * dist.get_world_size(wrapper.process_group)
    dist.all_gather_object(all_ranks, own, group=wrapper.process_group)
    differing = [
        name for name, digests in zip(positions, zip(*all_ranks, strict=True), strict=True) if len({*digests}) > 1
    ]
    if differing:
        raise ValueError(
            f"remask needs the same mask on every rank. Got different ones for {', '.join(map(repr, differing))}. Seed "
            "the rule's generator alike on every rank."
        )
    for name, places in positions.items():
        if places.numel() != before[name]:
            raise ValueError(
                "remask needs as many entries as before while DistributedDataParallel wraps the model, since its "
                f"buckets have the old sizes. Got {places.numel()} in place of {before[name]} for {name!r}. Remask its "
                "`module`, and wrap that again."
            )


def _digest(positions: Tensor) -> int:
    mixed = (positions.long() + 1) * _ODD[0]
    mixed = (mixed ^ (mixed >> 29)) * _ODD[1]
    return int((mixed ^ (mixed >> 32)).sum())
