"""`Pattern`: where a sparse matrix has its entries, in the form that its products need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

__all__ = ["Pattern", "Rows", "index_dtype"]


def index_dtype(largest: int) -> torch.dtype:
    """The smaller integer dtype that holds every number up to ``largest``."""
    return torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64


class Rows(NamedTuple):
    """Compressed rows: the number of entries before each row and in all, and each entry's column."""

    starts: Tensor
    columns: Tensor


@dataclass(frozen=True, eq=False)
class Pattern:
    """The places of the entries of a matrix ``(out, in)``, by rows and by columns.

    Never changed, only replaced, so that nothing in it goes stale. An entry costs 12 bytes (24 from 2^31
    entries on): its column, its row, and its place in the order by columns.

    Args:
        shape: ``(out, in)``.
        by_rows: The compressed rows.
        by_columns: The compressed rows of the transposed matrix.
        order: For each entry of the transposed matrix its place in the order by rows: ``(entries,)``.
    """

    shape: torch.Size
    by_rows: Rows
    by_columns: Rows
    order: Tensor

    @classmethod
    def of(cls, shape: torch.Size, positions: Tensor) -> Self:
        """The pattern with the given sorted row-major positions."""
        dtype = index_dtype(max(positions.numel(), *shape))
        rows = torch.div(positions, shape[1], rounding_mode="floor").to(dtype)
        columns = (positions % shape[1]).to(dtype)
        order = columns.argsort(stable=True)
        return cls(
            shape,
            Rows(_starts(rows, shape[0]), columns),
            Rows(_starts(columns[order], shape[1]), rows[order]),
            order.to(dtype),
        )

    def positions(self) -> Tensor:
        """The row-major positions, sorted, int32 where they fit: ``(entries,)``."""
        rows = self.by_columns.columns.to(index_dtype(self.shape.numel()))
        rows = torch.zeros_like(rows).scatter(0, self.order.long(), rows)  # operators that ONNX has, too
        return rows * self.shape[1] + self.by_rows.columns


def _starts(rows: Tensor, count: int) -> Tensor:
    """How many of the sorted numbers lie below each of 0 to ``count``."""
    every = torch.arange(count + 1, device=rows.device, dtype=rows.dtype)
    return torch.searchsorted(rows, every, out_int32=rows.dtype is torch.int32)
