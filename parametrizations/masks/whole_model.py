"""Rules that look at several weights at once: a density for a whole model, distributed over its layers.

`register` and `remask` pass such a rule all weights that get it in one call, under any number of patterns. PyTorch's
own ``register_parametrization`` passes it one weight, which then gets the whole density.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import Axes, as_axes, check_density, count_of, require_kept, require_values
from parametrizations.masks.chance import random
from parametrizations.masks.kept import Kept
from parametrizations.masks.pattern import Pattern
from parametrizations.masks.rule import MaskRule, known_axes
from parametrizations.masks.values import largest, magnitude

__all__ = ["erdos_renyi", "global_magnitude"]

Counts = Callable[[Sequence[Kept]], Sequence[int]]
"""A function from several weights, each given as a `Kept`, to the number of entries that each weight is to keep."""


class RuleOfDensity(Protocol):
    """A function from a density to a mask rule, such as `random` or `magnitude`."""

    def __call__(self, *, density: float) -> MaskRule: ...


@by_signature
def erdos_renyi(*, density: float, rule: RuleOfDensity = random, axes: Axes = None) -> MaskRule:
    """Give each layer a density that grows with ``1 / out + 1 / in``, so that small layers keep a larger share.

    A layer keeps a number of entries in proportion to ``out + in``, at most all of them; for a convolution, to ``out +
    in + height + width``. Together the layers with one rule object keep exactly ``round(density * entries)``. Mocanu et
    al., 2018, arXiv 1707.04780, equation 3; Evci et al., 2020, arXiv 1911.11134, compare it with equal densities.

    Args:
        density: The share of all entries to keep, above 0, at most 1. (`torch.nn.utils.prune` takes the share to drop.)
        rule: A function from the density of one layer to its mask rule, called as ``rule(density=...)``: `random`,
            `magnitude`, or another one such as ``functools.partial(masks.random, generator=generator)``.
        axes: The axes of outputs and inputs, for weights with more than two dimensions. Axes after them are those of a
            kernel; axes before them are batch, such as the experts of ``(experts, out, in)``, with ``axes=(-2, -1)``.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If ``density`` is not a number, or ``rule`` cannot be called.
        ValueError: If ``density`` is out of range.

    Example:
        >>> from torch import nn
        >>> from parametrizations import MaskedSparse, masks, register
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
        >>> _ = register(model, {"*.weight": MaskedSparse(masks.erdos_renyi(density=0.25))})
        >>> [layer.parametrizations.weight.original.numel() for layer in model]
        [26, 22]
    """
    density = check_density("erdos_renyi", density)
    if not callable(rule) or isinstance(rule, MaskRule):
        raise TypeError(
            f"erdos_renyi needs a function from a density to a mask rule. Got {type(rule).__name__}. "
            "Pass e.g. masks.random, without calling it."
        )
    name = f"erdos_renyi({density}, {getattr(rule, '__name__', 'rule')})"
    return _spread(name, partial(_by_sides, name, density, as_axes(name, axes)), rule)


@by_signature
def global_magnitude(*, density: float) -> MaskRule:
    """Keep the largest entries of all weights together: one threshold, exactly ``round(density * entries)`` of them.

    A layer with only small entries may keep few or none. Weights with the same rule object count together. Blalock et
    al., *What is the State of Neural Network Pruning?*, 2020, arXiv 2003.03033, compare it with `magnitude`, which
    keeps the same share of each. In `remask`, this rule chooses among kept entries.

    Args:
        density: The share of all entries to keep, above 0, at most 1. (`torch.nn.utils.prune` takes the share to drop.)

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If ``density`` is not a number.
        ValueError: If ``density`` is out of range; in `remask`, if it asks for more entries than are kept.

    Example:
        >>> from torch import nn
        >>> from parametrizations import MaskedSparse, masks, register
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
        >>> _ = register(model, {"*.weight": MaskedSparse(masks.global_magnitude(density=0.5))})
        >>> sum(layer.parametrizations.weight.original.numel() for layer in model)
        96
    """
    density = check_density("global_magnitude", density)
    name = f"global_magnitude({density})"
    return _spread(name, partial(_by_size, name, density), magnitude)


def _spread(name: str, counts: Counts, rule: RuleOfDensity) -> MaskRule:
    spread = partial(_rules, name, counts, rule)
    return MaskRule(name, partial(_alone, spread), spread=spread)


def _alone(spread: Callable[[Sequence[Kept]], Sequence[MaskRule]], weight: Tensor) -> Pattern:
    (rule,) = spread([Kept.whole(weight)])
    return rule.pattern(weight)


def _rules(name: str, counts: Counts, rule: RuleOfDensity, weights: Sequence[Kept]) -> list[MaskRule]:
    return [
        rule(density=count / kept.shape.numel()) if count else MaskRule(name, _nothing, by_shape=True)
        for count, kept in zip(counts(weights), weights, strict=True)
    ]


def _nothing(weight: Tensor) -> Pattern:
    return Pattern(weight.shape, torch.empty(0, dtype=torch.int64))


def _by_sides(name: str, density: float, axes: Axes, weights: Sequence[Kept]) -> list[int]:
    """How many entries each layer keeps, in proportion to ``out + in``. If a layer is full, others get the rest."""
    sizes, sides = [kept.shape.numel() for kept in weights], [_sides(name, kept, axes) for kept in weights]
    left = total = count_of(density, sum(sizes))
    wanted, waiting = [0.0] * len(sizes), sum(sides)
    for place in sorted(range(len(sizes)), key=lambda place: sizes[place] / max(sides[place], 1)):
        each = left / max(waiting, 1)
        wanted[place] = min(each * sides[place], sizes[place])
        if wanted[place] == sizes[place]:
            left, waiting = left - sizes[place], waiting - sides[place]
    return _rounded(wanted, total)


def _sides(name: str, kept: Kept, axes: Axes) -> int:
    """The sum of the sides of one matrix or kernel, such as ``out + in``, times the number of these in the weight."""
    first = min(known_axes(name, kept.shape, kept.axes if axes is None else axes))
    return kept.shape[:first].numel() * sum(kept.shape[first:])


def _rounded(wanted: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to ``total``: the largest remainders are rounded up."""
    counts = [math.floor(number) for number in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda place: counts[place] - wanted[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return counts


def _by_size(name: str, density: float, weights: Sequence[Kept]) -> list[int]:
    """For each weight, its number of entries in the ``density`` share of largest absolute values of all weights."""
    for kept in weights:
        require_values(name, kept.entries)
    entries = count_of(density, sum(kept.shape.numel() for kept in weights))
    require_kept(name, entries, sum(kept.count for kept in weights))
    return [int(chosen.count_nonzero()) for chosen in largest([kept.entries for kept in weights], entries)]
