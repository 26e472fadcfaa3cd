"""Masks that keep the largest entries."""

from __future__ import annotations

import math
import warnings
from functools import partial

import torch
from torch import Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import (
    Axes,
    check_density,
    count_of,
    integers,
    keep,
    require_kept,
    require_values,
)
from parametrizations.masks.kept import Kept, Swap, Swapped
from parametrizations.masks.rule import MaskRule, axis_rule

__all__ = ["largest", "magnitude", "n_of_m", "nonzero"]

SAMPLED = 4096
"""The size of the sample that estimates the threshold between the largest entries and the others."""


@by_signature
def magnitude(*, density: float) -> MaskRule:
    """Keep the entries of largest absolute value, exactly ``round(density * entries)`` of them.

    The usual criterion for pruning a trained weight: Han et al., *Learning both Weights and Connections
    for Efficient Neural Networks*, 2015, arXiv 1506.02626. `remask` chooses among the kept entries.

    Args:
        density: The share of the entries to keep, above 0 and at most 1; not to remove, as in `torch.nn.utils.prune`.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If ``density`` is not a number.
        ValueError: If ``density`` is out of range; when applied, if the weight is on meta, or keeps fewer entries.

    Example:
        >>> magnitude(density=0.5)(torch.tensor([[1.0, -3.0], [2.0, 0.0]]))
        tensor([[False,  True],
                [ True, False]])
    """
    density = check_density("magnitude", density)
    return MaskRule(f"magnitude({density})", partial(_magnitude, density), Swap(partial(_prune, density)))


@by_signature
def n_of_m(n: int, m: int, *, axes: Axes = None) -> MaskRule:
    """Keep the ``n`` largest of every ``m`` consecutive entries along the inputs; ``n_of_m(2, 4)`` is 2:4.

    Mishra et al., *Accelerating Sparse Deep Neural Networks*, 2021, arXiv 2104.08378.

    Args:
        n: The number of kept entries in a group, from 1 to ``m``.
        m: The size of a group, which has to divide the number of inputs.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions, such as ``(0, 1)`` for groups
            of input channels of a convolution.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``n`` is out of range; when applied, if ``m`` does not divide the inputs, or without values.

    Example:
        >>> n_of_m(1, 2)(torch.tensor([[1.0, -3.0, 2.0, 0.0]]))
        tensor([[False,  True,  True, False]])
    """
    n, m = integers("n_of_m", n, m)
    if not 1 <= n <= m:
        raise ValueError(f"n_of_m needs 1 <= n <= m. Got n={n}, m={m}. n_of_m(2, 4) keeps 2 of every 4.")
    return axis_rule(f"n_of_m({n}, {m})", partial(_n_of_m, n, m), axes, matrices=None)


@by_signature
def nonzero() -> MaskRule:
    """Keep the entries that are not zero, for a checkpoint that was pruned elsewhere.

    Load the checkpoint into the plain model, then register. `remask` drops the kept entries that are zero.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        ValueError: When applied, if the weight is on the meta device, without values.

    Example:
        >>> nonzero()(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
        tensor([[ True, False],
                [False,  True]])
    """
    return MaskRule("nonzero()", _nonzero, Swap(_drop_zeros))


def _nonzero(weight: Tensor) -> Tensor:
    require_values("nonzero", weight)
    mask = weight != 0
    if weight.numel() and mask.all():
        text = "nonzero() keeps every entry: none is zero. Load the pruned checkpoint first, and register then."
        warnings.warn(text, stacklevel=2)
    return mask


def _drop_zeros(kept: Kept) -> Swapped:
    require_values("nonzero", kept.values)
    return Swapped(kept.values != 0, kept.places[:0], kept.places[:0])


def _magnitude(density: float, weight: Tensor) -> Tensor:
    require_values("magnitude", weight)
    kept = weight.abs().flatten().topk(count_of(density, weight.numel()), sorted=False)
    if density < 1 and kept.values.numel() and not kept.values.any():
        text = f"magnitude({density}) has nothing to compare: all entries are zero. Train first, or use masks.random."
        warnings.warn(text, stacklevel=2)
    return keep(weight, kept.indices)


def _prune(density: float, kept: Kept) -> Swapped:
    name, count, none = f"magnitude({density})", count_of(density, kept.shape.numel()), kept.places[:0]
    require_kept(name, count, kept.count)
    return Swapped(largest(name, kept, count), none, none)


def largest(name: str, kept: Kept, count: int) -> Tensor:
    """Whether each kept entry is among the ``count`` largest, for the rule with this name: ``(kept,)``, boolean."""
    require_values(name, kept.values)
    sizes = kept.values.abs()
    if not count:
        return torch.zeros_like(sizes, dtype=torch.bool)
    low, high = _around(sizes, count)
    above = sizes > high
    close = ((sizes >= low) & ~above).nonzero().squeeze(1)
    missing = count - int(above.sum())
    if not 0 <= missing <= close.numel():  # the sample is not representative
        above, close, missing = above.fill_(False), torch.arange(sizes.numel(), device=sizes.device), count
    return above.index_fill_(0, close[sizes[close].topk(missing, sorted=False).indices], True)


def _around(sizes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Two sizes that should enclose the threshold: quantiles of a sample, four standard deviations apart."""
    sample = sizes[:: -(-sizes.numel() // SAMPLED)].sort().values
    last = sample.numel() - 1
    place, spare = round(last * (1 - count / sizes.numel())), 2 * math.isqrt(sample.numel())
    return sample[max(place - spare, 0)], sample[min(place + spare, last)]


def _n_of_m(n: int, m: int, weight: Tensor) -> Tensor:
    name = f"n_of_m({n}, {m})"
    require_values(name, weight)
    if weight.shape[1] % m:
        raise ValueError(
            f"{name} needs a number of inputs that {m} divides. Got {weight.shape[1]} inputs. "
            "Choose another m, or leave this layer out."
        )
    inputs_last = weight.abs().movedim(1, -1)
    groups = inputs_last.reshape(-1, m)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter(1, groups.topk(n).indices, True)
    return kept.view(inputs_last.shape).movedim(-1, 1)
