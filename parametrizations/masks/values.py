"""Masks by the values of a weight: the largest entries, or all non-zero ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial, reduce

import torch
from torch import Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import Axes, check_density, count_of, integers, require_kept, require_values
from parametrizations.masks.kept import Kept
from parametrizations.masks.pattern import Pattern
from parametrizations.masks.rule import MaskRule, axis_rule

CHUNK = 2**20
"""The number of entries that are compared at a time, so that `largest` needs little memory beyond the weight."""

DIGIT = 16
"""The number of bits in a digit of the radix select."""


@by_signature
def magnitude(*, density: float) -> MaskRule:
    """Keep the entries of largest absolute value, exactly ``round(density * entries)`` of them.

    The usual criterion for pruning a trained weight: Han et al., *Learning both Weights and Connections for Efficient
    Neural Networks*, 2015, arXiv 1506.02626. Of equal entries the first are kept. `remask` chooses among kept entries.

    Args:
        density: The share of entries to keep, above 0 and at most 1. (`torch.nn.utils.prune` takes the share to drop.)

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If ``density`` is not a number.
        ValueError: If ``density`` is out of range; when applied, if the weight is on meta; in `remask`, if the old mask
            keeps fewer entries than ``density`` asks for.

    Example:
        >>> magnitude(density=0.5)(torch.tensor([[1.0, -3.0], [2.0, 0.0]]))
        tensor([[False,  True],
                [ True, False]])
    """
    density = check_density("magnitude", density)
    return MaskRule(f"magnitude({density})", partial(_magnitude, density), partial(_prune, density))


@by_signature
def n_of_m(n: int, m: int, *, axes: Axes = None) -> MaskRule:
    """Keep the ``n`` entries of largest absolute value among every ``m`` consecutive entries along the inputs.

    ``n_of_m(2, 4)`` is 2:4 sparsity: Mishra et al., *Accelerating Sparse Deep Neural Networks*, 2021, arXiv 2104.08378.

    Args:
        n: The number of kept entries in a group, from 1 to ``m``.
        m: The size of a group, which has to divide the number of inputs.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions, such as ``(0, 1)`` for groups
            of input channels of a convolution.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``n`` is out of range; when applied, if ``m`` does not divide the inputs, or for a meta weight.

    Example:
        >>> n_of_m(1, 2)(torch.tensor([[1.0, -3.0, 2.0, 0.0]]))
        tensor([[False,  True,  True, False]])
    """
    n, m = integers("n_of_m", n, m)
    if not 1 <= n <= m:
        raise ValueError(f"n_of_m needs 1 <= n <= m. Got n={n}, m={m}. n_of_m(2, 4) keeps 2 of every 4.")
    return axis_rule(f"n_of_m({n}, {m})", partial(_n_of_m, n, m), axes, matrices=None, by_shape=False)


@by_signature
def nonzero() -> MaskRule:
    """Keep the entries that are not zero, for a checkpoint that was pruned elsewhere.

    Load the checkpoint into the plain model, then register. In `remask`, this rule drops kept entries that are zero.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        ValueError: When applied, if the weight is on the meta device, without values.

    Example:
        >>> nonzero()(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
        tensor([[ True, False],
                [False,  True]])
    """
    return MaskRule("nonzero()", _nonzero, _drop_zeros)


def _nonzero(weight: Tensor) -> Pattern:
    require_values("nonzero", weight)
    positions = weight.flatten().nonzero().squeeze(1)
    if weight.numel() and positions.numel() == weight.numel():
        text = "nonzero() keeps every entry: none is zero. Load the pruned checkpoint first, and register then."
        warnings.warn(text, stacklevel=2)
    return Pattern(weight.shape, positions)


def _drop_zeros(kept: Kept) -> Tensor:
    require_values("nonzero", kept.entries)
    return kept.positions[kept.entries != 0]


def _magnitude(density: float, weight: Tensor) -> Pattern:
    require_values("magnitude", weight)
    count, entries = count_of(density, weight.numel()), weight.flatten()
    if density < 1 and count and not entries.any():
        text = f"magnitude({density}) has nothing to compare: all entries are zero. Train first, or use masks.random."
        warnings.warn(text, stacklevel=2)
    (kept,) = largest([entries], count)
    return Pattern(weight.shape, kept.nonzero().squeeze(1))


def _prune(density: float, kept: Kept) -> Tensor:
    name, count = f"magnitude({density})", count_of(density, kept.shape.numel())
    require_kept(name, count, kept.count)
    require_values(name, kept.entries)
    (stays,) = largest([kept.entries], count)
    return kept.positions[stays]


def largest(parts: Sequence[Tensor], count: int) -> list[Tensor]:
    """Whether each entry is among the ``count`` largest absolute values of all parts; earlier ones win if equal.

    A radix select on the bits of the absolute values, which have the order of the values. It is exact.

    Args:
        parts: Floating-point or complex tensors, each of one dimension.
        count: The number of entries to choose.

    Returns:
        A boolean tensor for each part.
    """
    found = [torch.zeros(part.shape, dtype=torch.bool, device=part.device) for part in parts]
    if not count:
        return found
    dtype = reduce(torch.promote_types, [part.real.dtype for part in parts])
    threshold, missing = _threshold(parts, count, dtype)
    for mask, part in zip(found, parts, strict=True):
        for own, bits in zip(torch.split(mask, CHUNK), _bits(part, dtype), strict=True):
            equal = (bits == threshold).nonzero().squeeze(1)[:missing]
            torch.gt(bits, threshold, out=own)
            own[equal] = True
            missing -= equal.numel()
    return found


def _threshold(parts: Sequence[Tensor], count: int, dtype: torch.dtype) -> tuple[int, int]:
    """The bits of the smallest of the ``count`` largest absolute values, the threshold.

    Also how many of these ``count`` values equal the threshold.
    """
    threshold, missing, first = 0, count, 8 * dtype.itemsize - DIGIT
    for shift in range(first, -1, -DIGIT):
        histogram = torch.zeros(2**DIGIT, dtype=torch.int64, device="cpu")
        for bits in (bits for part in parts for bits in _bits(part, dtype)):
            same = bits if shift == first else bits[bits >> (shift + DIGIT) == threshold]
            histogram += ((same >> shift) & (2**DIGIT - 1)).bincount(minlength=2**DIGIT).cpu()
        at_least = histogram.flip(0).cumsum(0)
        place = int(torch.searchsorted(at_least, missing))
        missing -= int(at_least[place - 1]) if place else 0
        threshold = (threshold << DIGIT) + 2**DIGIT - 1 - place
    return threshold, missing


def _bits(part: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The bits of the absolute values in ``dtype``, as int64 numbers, a chunk at a time."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for chunk in torch.split(part.detach(), CHUNK):
        yield chunk.abs().to(dtype).view(integer).long()


def _n_of_m(n: int, m: int, weight: Tensor) -> Pattern:
    name = f"n_of_m({n}, {m})"
    require_values(name, weight)
    if weight.shape[1] % m:
        raise ValueError(
            f"{name} needs a number of inputs that {m} divides. Got {weight.shape[1]} inputs. "
            "Choose another m, or leave this layer out."
        )
    inputs_last = weight.abs().movedim(1, -1)
    groups = inputs_last.reshape(-1, m)
    starts = torch.arange(groups.shape[0], device=weight.device)[:, None] * m
    positions = (groups.topk(n).indices.sort().values + starts).flatten()
    return Pattern(inputs_last.shape, positions).placed(weight.shape, [0, *range(2, weight.dim()), 1])
