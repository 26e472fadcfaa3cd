"""`per_block`: a mask rule that applies another rule to each block of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import Axes, integers
from parametrizations.masks.kept import Kept
from parametrizations.masks.pattern import Pattern
from parametrizations.masks.rule import MaskRule, axis_rule


@by_signature
def per_block(rule: MaskRule, blocks: int, *, axes: Axes = None) -> MaskRule:
    """Apply a rule to each of ``blocks`` equal blocks of rows: every gate, or head, gets the same exact density.

    The blocks lie one under another, as the gates of `nn.LSTM` (4) and `nn.GRU` (3), query, key and value in
    ``in_proj_weight`` (3), or the heads of a projection. A random rule gives each block a different mask.

    Args:
        rule: A rule for a single weight, without ``axes`` of its own; not `rigl`, which needs the gradient of the whole
            weight.
        blocks: The number of equal blocks of rows. 1 means one mask for all rows, without the warning of
            `register` that the mask cuts across stacked gates.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If ``rule`` is not a mask rule.
        ValueError: If the rule looks at several weights, or has axes; if ``blocks`` is below 1, or, when applied, does
            not divide the rows.

    Example:
        >>> from torch import nn
        >>> from parametrizations import MaskedSparse, masks, register
        >>> rule = masks.per_block(masks.magnitude(density=0.25), 4)
        >>> layer = register(nn.LSTM(3, 8), {"weight_hh_l0": MaskedSparse(rule)})
        >>> [int(gate.count_nonzero()) for gate in layer.weight_hh_l0.chunk(4)]
        [16, 16, 16, 16]
    """
    if not isinstance(rule, MaskRule):
        raise TypeError(
            f"per_block needs a mask rule. Got {type(rule).__name__}. Pass e.g. (masks.random(density=0.1), blocks=4)."
        )
    (blocks,) = integers("per_block", blocks)
    if rule.spread is not None or rule.axes is not None or blocks < 1:
        raise ValueError(
            f"per_block needs a rule for one weight, without axes, and blocks of at least 1. Got {rule} and {blocks}. "
            "Pass axes to per_block, and for a rule of several weights choose the density of each weight yourself."
        )
    name = f"per_block({rule}, {blocks})"
    build, matrices = partial(_build, name, rule, blocks), None if blocks == 1 else blocks
    made = axis_rule(name, build, axes, matrices=matrices, by_shape=rule.by_shape)
    return made if rule.move is None else replace(made, move=partial(_move, name, rule.move, blocks, made.axes))


def _build(name: str, rule: MaskRule, blocks: int, weight: Tensor) -> Pattern:
    _require_equal_blocks(name, weight.shape[0], blocks)
    rule = rule.with_axes((0, 1))
    if not weight.numel():
        return rule.pattern(weight)
    size = weight.numel() // blocks
    found = [rule.pattern(block).positions + place * size for place, block in enumerate(weight.chunk(blocks))]
    return Pattern(weight.shape, torch.cat(found))


def _move(name: str, move: Callable[[Kept], Tensor], blocks: int, axes: Axes, kept: Kept) -> Tensor:
    """The new positions in the whole weight, from one call of ``move`` with the kept entries of each block."""
    axes = axes or kept.axes or (0, 1)
    out = axes[0]
    rows, inner = kept.shape[out], kept.shape[out:].numel() // max(kept.shape[out], 1)
    _require_equal_blocks(name, rows, blocks)
    height = rows // blocks
    shape = torch.Size([height if axis == out % len(kept.shape) else size for axis, size in enumerate(kept.shape)])
    found = [kept.places[:0]]
    for block in range(blocks if kept.shape.numel() else 0):
        start = block * height
        own = (kept.places // inner % rows // height == block).nonzero().squeeze(1)
        local = _moved_rows(kept.places[own], inner, rows, height, -start)
        part = Kept(kept.name, shape, kept.values[own], local, axes=axes)
        found.append(_moved_rows(move(part).to(local), inner, height, rows, start))
    return torch.cat(found)


def _moved_rows(places: Tensor, inner: int, rows: int, new_rows: int, by: int) -> Tensor:
    """Row-major positions in ``(outer, rows, inner)``, moved ``by`` rows down into ``(outer, new_rows, inner)``."""
    outer, row = places // (inner * rows), places // inner % rows
    return (outer * new_rows + row + by) * inner + places % inner


def _require_equal_blocks(name: str, rows: int, blocks: int) -> None:
    if rows % blocks:
        raise ValueError(
            f"{name} needs a number of rows that {blocks} blocks divide. Got {rows} rows. Choose another number of "
            "blocks, or leave this layer out."
        )
