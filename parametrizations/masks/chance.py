"""Random masks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from parametrizations._checks import by_signature
from parametrizations._products.operands import index_dtype
from parametrizations.masks.arguments import check_density, count_of, require_generator
from parametrizations.masks.pattern import Pattern, distinct
from parametrizations.masks.rule import MaskRule


@by_signature
def random(*, density: float, generator: Generator | None = None) -> MaskRule:
    """Keep entries sampled uniformly at random, exactly ``round(density * entries)`` of them.

    Args:
        density: The share of entries to keep, above 0 and at most 1. (`torch.nn.utils.prune` takes the share to drop.)
        generator: A random number generator on any device, or None for torch's own. Seed it equally on all ranks.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``density`` is out of range.

    Example:
        >>> rule = random(density=0.25, generator=torch.Generator().manual_seed(0))
        >>> int(rule(torch.empty(8, 6)).sum())
        12
    """
    density = check_density("random", density)
    require_generator("random", generator)
    return MaskRule(f"random({density})", partial(_random, density, generator), by_shape=True)


def drawn(count: int, below: int, generator: Generator | None) -> Tensor:
    """``count`` distinct numbers from 0 to ``below - 1``, uniform and sorted, in memory proportional to ``count``.

    Duplicates are dropped and more numbers drawn, until there are enough; then the surplus is dropped at random. Each
    step treats all numbers alike, so the result is uniform.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    if 2 * count > below:
        return torch.randperm(below, generator=generator, device=device)[:count].sort().values
    found = torch.empty(0, dtype=index_dtype(below), device=device)  # int32 is sorted five times as fast as int64
    while found.numel() < count:
        found = merged(found, distinct(torch.randint(below, (count,), generator=generator, device=device).to(found)))
    left_out = torch.randperm(found.numel(), generator=generator, device=device)[count:]
    return found[torch.ones_like(found, dtype=torch.bool).index_fill_(0, left_out, False)].long()


def merged(one: Tensor, other: Tensor) -> Tensor:
    """The sorted union of two tensors of sorted distinct numbers; a number in both appears once.

    Sorting both together would take twice the memory.
    """
    if not one.numel():
        return other
    before = torch.searchsorted(one, other)
    is_new = one[before.clamp(max=one.numel() - 1)] != other
    other, before = other[is_new], before[is_new]
    seats = before.add_(torch.arange(before.numel(), device=one.device))
    is_old = torch.ones(one.numel() + seats.numel(), dtype=torch.bool, device=one.device).index_fill_(0, seats, False)
    return one.new_zeros(is_old.shape).masked_scatter_(is_old, one).index_copy_(0, seats, other)


def _random(density: float, generator: Generator | None, weight: Tensor) -> Pattern:
    entries = weight.numel()
    return Pattern(weight.shape, drawn(count_of(density, entries), entries, generator))
