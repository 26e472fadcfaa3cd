"""Mask rules by position, such as bands and blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import Axes, integers, numbers
from parametrizations.masks.pattern import Pattern, distinct, in_ranges
from parametrizations.masks.rule import MaskRule, axis_rule


@by_signature
def banded(lower: int, upper: int, *, axes: Axes = None) -> MaskRule:
    """Keep the main diagonal, ``lower`` diagonals below and ``upper`` above it.

    Args:
        lower: The number of diagonals below the main diagonal, at least 0.
        upper: The number of diagonals above it, at least 0.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions. All other axes are batch.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is negative.

    Example:
        >>> banded(0, 1)(torch.empty(2, 3))
        tensor([[ True,  True, False],
                [False,  True,  True]])
    """
    lower, upper = integers("banded", lower, upper)
    if lower < 0 or upper < 0:
        raise ValueError(
            f"banded needs numbers of diagonals of at least 0. Got lower={lower}, upper={upper}. "
            "Use lower_triangular(-1) for all entries below the main diagonal, or a boolean mask for another band."
        )
    return axis_rule(f"banded({lower}, {upper})", partial(_band, upper, -lower), axes)


@by_signature
def lower_triangular(diagonal: int = 0, *, axes: Axes = None) -> MaskRule:
    """Keep the entries on and below a diagonal, as `torch.tril` counts them.

    Args:
        diagonal: 0 for the main diagonal, 1 for the diagonal above it, -1 for the diagonal below it.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions. All other axes are batch.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.

    Example:
        >>> lower_triangular(-1)(torch.empty(2, 3))
        tensor([[False, False, False],
                [ True, False, False]])
    """
    (diagonal,) = integers("lower_triangular", diagonal)
    return axis_rule(f"lower_triangular({diagonal})", partial(_band, diagonal, None), axes)


@by_signature
def block_diagonal(blocks: int, *, axes: Axes = None) -> MaskRule:
    """Keep ``blocks`` equal blocks along the diagonal: independent groups of inputs and outputs.

    Args:
        blocks: The number of blocks; it must divide both the outputs and the inputs.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions. All other axes are batch.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``blocks`` is below 1; at registration, if it does not divide the shape of the weight.

    Example:
        >>> block_diagonal(2)(torch.empty(2, 4))
        tensor([[ True,  True, False, False],
                [False, False,  True,  True]])
    """
    (blocks,) = integers("block_diagonal", blocks)
    if blocks < 1:
        raise ValueError(f"block_diagonal needs at least 1 block. Got {blocks}. Pass a positive number.")
    return axis_rule(f"block_diagonal({blocks})", partial(_block_diagonal, blocks), axes)


@by_signature
def from_edges(edges: Iterable[tuple[int, int]] | Tensor, *, axes: Axes = None) -> MaskRule:
    """Keep the listed connections: ``(source, target)`` keeps ``weight[target, source]``.

    Args:
        edges: Pairs of an input index and an output index, or an integer tensor ``(edges, 2)``. Repeated edges count
            once. For an ``edge_index`` of PyTorch Geometric, ``(2, edges)``, use `from_edge_index`.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions. All other axes are batch: the
            mask is repeated along them.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``edges`` are not pairs of integers; at registration, if an edge is outside the weight.

    Example:
        >>> from_edges([(2, 0), (0, 1)])(torch.empty(2, 3))
        tensor([[False, False,  True],
                [ True, False, False]])
    """
    pairs = numbers("from_edges", edges, "[(0, 1), (0, 2)], with units numbered from 0")
    if pairs.numel() == 0:
        pairs = pairs.new_zeros((0, 2), dtype=torch.int64)
    is_whole = not (pairs.is_floating_point() or pairs.is_complex() or pairs.dtype is torch.bool)
    if pairs.dim() != 2 or pairs.shape[1] != 2 or not is_whole:
        raise ValueError(
            f"from_edges needs pairs (source, target) of integers. Got {type(edges).__name__}: {pairs.dtype} of shape "
            f"{tuple(pairs.shape)}. Pass a list of pairs, or an integer tensor of shape (edges, 2), or call "
            "from_edge_index for (2, edges)."
        )
    return axis_rule(f"from_edges({len(pairs)} edges)", partial(_from_edges, pairs.long()), axes)


@by_signature
def from_edge_index(edge_index: Sequence[Sequence[int]] | Tensor, *, axes: Axes = None) -> MaskRule:
    """Keep the connections of a graph of PyTorch Geometric: `from_edges` for the other layout, ``(2, edges)``.

    Args:
        edge_index: An integer tensor ``(2, edges)``: the sources, which are inputs, and the targets, which are outputs.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions. All other axes are batch.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If it has another shape or dtype; at registration, if an edge is outside the weight.

    Example:
        >>> from_edge_index(torch.tensor([[2, 0], [0, 1]]))(torch.empty(2, 3))
        tensor([[False, False,  True],
                [ True, False, False]])
    """
    both = numbers("from_edge_index", edge_index, "the edge_index of a graph, an integer tensor (2, edges)")
    if both.dim() != 2 or both.shape[0] != 2:
        raise ValueError(
            f"from_edge_index needs sources and targets, an integer tensor (2, edges). Got shape {tuple(both.shape)}. "
            "Call from_edges for pairs, (edges, 2)."
        )
    return from_edges(both.T, axes=axes)


@by_signature
def autoregressive(
    in_degrees: Sequence[int] | Tensor,
    out_degrees: Sequence[int] | Tensor,
    *,
    strict: bool = False,
    axes: Axes = None,
) -> MaskRule:
    """Keep the connections that respect an order: ``out_degrees[i] >= in_degrees[j]`` keeps ``weight[i, j]``.

    One layer of MADE: Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, 2015,
    arXiv 1502.03509, equations 12 and 13. Use ``strict=False`` in hidden layers, ``strict=True`` in the output layer.

    Sort the degrees of hidden units: their order is arbitrary. If both degrees are sorted, every row keeps its first
    entries, at least as many as the row above. The product ``"strips"`` is fast for such masks.

    Args:
        in_degrees: One number for each input, ``(in,)``.
        out_degrees: One number for each output, ``(out,)``.
        strict: Whether to require ``>`` instead of ``>=``.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions. All other axes are batch.

    Returns:
        A rule for `MaskedSparse`.

    Raises:
        TypeError: If the degrees are not numbers.
        ValueError: If a degree is complex or NaN; at registration, if the weight has another number of inputs or of
            outputs.

    Example:
        >>> pixels, hidden = [1, 2, 3], [1, 2]
        >>> autoregressive(pixels, hidden)(torch.empty(2, 3))
        tensor([[ True, False, False],
                [ True,  True, False]])
        >>> autoregressive(hidden, pixels, strict=True)(torch.empty(3, 2))
        tensor([[False, False],
                [ True, False],
                [ True,  True]])
    """
    example = "range(1, 4), a number for each unit"
    inputs, outputs = (numbers("autoregressive", degrees, example) for degrees in (in_degrees, out_degrees))
    if inputs.is_complex() or outputs.is_complex() or bool(inputs.isnan().any() | outputs.isnan().any()):
        raise ValueError("autoregressive needs degrees that can be ordered. Got complex numbers or NaN.")
    name = f"autoregressive({inputs.numel()} inputs, {outputs.numel()} outputs, strict={strict})"
    return axis_rule(name, partial(_autoregressive, inputs, outputs, strict), axes)


def _band(highest: int, lowest: int | None, weight: Tensor) -> Pattern:
    rows, columns = weight.shape[:2]
    row = torch.arange(rows)
    starts = torch.zeros_like(row) if lowest is None else (row + max(lowest, -rows)).clamp(min=0)
    ends = (row + min(max(highest, -rows), columns) + 1).clamp(max=columns)
    return Pattern(weight.shape[:2], in_ranges(starts, ends, columns))


def _block_diagonal(blocks: int, weight: Tensor) -> Pattern:
    rows, columns = weight.shape[:2]
    if rows % blocks or columns % blocks:
        raise ValueError(
            f"block_diagonal({blocks}) needs a weight with sides divisible by {blocks}. "
            f"Got shape {tuple(weight.shape)}. Choose another number of blocks."
        )
    width = columns // blocks
    starts = torch.arange(rows) // max(rows // blocks, 1) * width
    return Pattern(weight.shape[:2], in_ranges(starts, starts + width, columns))


def _from_edges(pairs: Tensor, weight: Tensor) -> Pattern:
    source, target = pairs.unbind(1)
    rows, columns = weight.shape[:2]
    outside = (source < 0) | (source >= columns) | (target < 0) | (target >= rows)
    if bool(outside.any()):
        raise ValueError(
            f"from_edges needs sources below {columns} and targets below {rows}, as the weight's shape is "
            f"{tuple(weight.shape)}. Got {int(outside.sum())} edges outside, the first "
            f"{tuple(pairs[outside][0].tolist())}. Pairs are (source, target)."
        )
    return Pattern(weight.shape[:2], distinct(target * columns + source))


def _autoregressive(inputs: Tensor, outputs: Tensor, strict: bool, weight: Tensor) -> Pattern:
    if (outputs.numel(), inputs.numel()) != tuple(weight.shape[:2]):
        raise ValueError(
            f"autoregressive needs a degree for each output and input of the weight, of shape {tuple(weight.shape)}. "
            f"Got {outputs.numel()} output and {inputs.numel()} input degrees. Pass (in_degrees, out_degrees)."
        )
    dtype, columns = torch.promote_types(inputs.dtype, outputs.dtype), inputs.numel()
    dtype = torch.uint8 if dtype is torch.bool else dtype
    rising = inputs.flatten().to(dtype).sort()
    counts = torch.searchsorted(rising.values, outputs.flatten().to(dtype), right=not strict)
    found = in_ranges(torch.zeros_like(counts), counts, columns)  # as if the inputs were sorted by degree
    found = found - found % max(columns, 1) + rising.indices[found % max(columns, 1)]
    return Pattern(weight.shape[:2], found.sort().values)
