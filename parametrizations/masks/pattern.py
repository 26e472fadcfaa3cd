"""`Pattern`: a mask as the positions of its kept entries, which takes no memory for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from parametrizations.masks.arguments import broadcasts, from_array, is_array

LAYOUTS = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class Pattern(NamedTuple):
    """The sparsity pattern of a weight.

    Args:
        shape: The shape of the weight.
        positions: The sorted row-major positions of the kept entries, int64: ``(kept,)``.

    Example:
        >>> Pattern.of(torch.tensor([[True, False], [True, True]]))
        Pattern(shape=torch.Size([2, 2]), positions=tensor([0, 2, 3]))
    """

    shape: torch.Size
    positions: Tensor

    @classmethod
    def of(cls, mask: object, rule: object = None) -> Self:
        """The pattern of a boolean mask, or of the specified entries of a sparse tensor or a SciPy sparse array.

        Args:
            mask: The mask, with at least one dimension, on any device.
            rule: The rule that has returned it, for errors.

        Raises:
            TypeError: If ``mask`` has another type, or is dense and not boolean.
            ValueError: If it has no values or no dimension, or indices out of range.
        """
        if isinstance(mask, cls):
            return mask
        if hasattr(mask, "tocoo"):
            return cls.of(_from_scipy(mask), rule)
        mask = from_array(mask) if is_array(mask) else mask
        if not isinstance(mask, Tensor) or (mask.layout is torch.strided and mask.dtype is not torch.bool):
            got = getattr(mask, "dtype", type(mask).__name__)
            advice = "Pass e.g. `mask != 0`" if rule is None else "Return a boolean tensor, or a sparse one"
            source = "" if rule is None else f" from the rule {rule}"
            raise TypeError(f"MaskedSparse needs a mask of dtype torch.bool{source}. Got {got}. {advice}.")
        if mask.is_meta or mask.layout not in (torch.strided, *LAYOUTS):
            on_meta = "Make the mask on the CPU; a weight on meta has a shape alone"
            advice = on_meta if mask.is_meta else "Pass mask.to_dense()"
            raise ValueError(
                f"MaskedSparse needs a dense or sparse mask with values. Got one of layout {mask.layout} on "
                f"{mask.device}. {advice}."
            )
        _require_dimension(mask.shape)
        if mask.layout is torch.strided:
            return cls(mask.shape, mask.flatten().nonzero().squeeze(1))
        return cls(mask.shape, _specified(mask.detach()))

    def dense(self) -> Tensor:
        """The boolean mask."""
        mask = torch.zeros(self.shape.numel(), dtype=torch.bool, device=self.positions.device)
        return mask.index_fill_(0, self.positions, True).view(self.shape)

    def placed(self, shape: torch.Size, axes: Sequence[int]) -> Pattern:
        """The pattern of a weight of ``shape``: this pattern along ``axes``, repeated along all other axes.

        Axis ``i`` of this pattern must be as long as axis ``axes[i]`` of the weight.
        """
        if [*axes] == [*range(len(shape))]:
            return self
        strides = torch.empty(shape, device="meta").stride()
        rest, found = self.positions, torch.zeros_like(self.positions)
        for axis in reversed(axes):
            found, rest = found + rest % shape[axis] * strides[axis], rest // max(shape[axis], 1)
        for axis in {*range(len(shape))} - {*axes}:
            along = torch.arange(shape[axis], device=found.device) * strides[axis]
            found = (found[:, None] + along).flatten()
        return Pattern(shape, found.sort().values)

    def require_shape(self, shape: torch.Size) -> None:
        """Raise a `ValueError` if the weight's ``shape`` is ``()``, or differs from the shape of the pattern."""
        _require_dimension(shape)
        if self.shape != shape:
            fits = broadcasts(self.shape, shape)
            advice = "; to broadcast, return mask.expand_as(weight) from a function" if fits else ""
            raise ValueError(
                f"MaskedSparse needs a mask of the weight's shape, {tuple(shape)}. Got shape {tuple(self.shape)}. "
                f"True keeps an entry{advice}."
            )


def _require_dimension(shape: torch.Size) -> None:
    if not shape:
        raise ValueError(
            "MaskedSparse needs a mask of at least 1 dimension. Got shape (). Pass a mask of the weight's shape, True "
            "at kept entries; scalar weights take none."
        )


def distinct(numbers: Tensor) -> Tensor:
    """The distinct numbers, sorted. `torch.unique` gives the same, and takes three times the memory."""
    numbers = numbers.sort().values
    return numbers[torch.cat([numbers[:1] == numbers[:1], numbers[1:] != numbers[:-1]])]


def in_ranges(starts: Tensor, ends: Tensor, columns: int) -> Tensor:
    """The row-major positions from column ``starts[row]`` up to, not including, ``ends[row]``, of each row."""
    counts = (ends - starts).clamp(min=0)
    offsets = torch.arange(counts.numel()) * columns + starts - (counts.cumsum(0) - counts)
    return offsets.repeat_interleave(counts).add_(torch.arange(int(counts.sum())))


def _from_scipy(mask: Any) -> Tensor:
    """A SciPy sparse matrix or array as a boolean `torch.sparse_coo` tensor."""
    coo = mask.tocoo()
    coords = getattr(coo, "coords", None) or (coo.row, coo.col)
    indices = [torch.as_tensor(each, dtype=torch.int64, device="cpu") for each in coords]
    values = torch.ones(coo.nnz, dtype=torch.bool, device="cpu")
    return torch.sparse_coo_tensor(torch.stack(indices), values, coo.shape, device="cpu", check_invariants=True)


def _valid(mask: Tensor) -> Any:
    """A compressed sparse tensor with checked indices: wrong ones would make PyTorch access memory out of bounds."""
    by_columns = mask.layout in (torch.sparse_csc, torch.sparse_bsc)
    indices = (mask.ccol_indices(), mask.row_indices()) if by_columns else (mask.crow_indices(), mask.col_indices())
    layout, shape = mask.layout, mask.shape
    try:
        return torch.sparse_compressed_tensor(*indices, mask.values(), shape, layout=layout, check_invariants=True)
    except RuntimeError as error:
        raise ValueError(
            f"MaskedSparse needs a mask with valid indices. Got one of layout {layout}: {error}. Rebuild the mask."
        ) from error


def _specified(mask: Tensor) -> Tensor:
    """The sorted positions of the specified entries of a sparse tensor, whatever their values."""
    mask = (mask if mask.layout is torch.sparse_coo else _valid(mask).to_sparse_coo()).coalesce()
    if mask.dense_dim():
        raise ValueError(
            f"MaskedSparse needs a sparse mask without dense dimensions. Got {mask.dense_dim()}. Pass "
            "mask.to_dense() != 0."
        )
    positions = torch.zeros_like(mask.indices()[0])
    for index, size in zip(mask.indices(), mask.shape, strict=True):
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < size):
            raise ValueError(
                f"MaskedSparse needs indices from 0 to {size - 1} in its mask of shape {tuple(mask.shape)}. Got "
                f"{int(index.min())} to {int(index.max())}. Rebuild the mask from valid indices."
            )
        positions.mul_(size).add_(index)
    return positions if bool((positions[1:] > positions[:-1]).all()) else distinct(positions)
