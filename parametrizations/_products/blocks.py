"""`Blocks`: a matrix of equal full blocks along its diagonal, multiplied with all of them in one batched product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parametrizations._products.csr import index_dtype
from parametrizations._products.envelope import Envelope

__all__ = ["Blocks"]


@dataclass(frozen=True, eq=False)
class Blocks:
    """The places of the entries of a block-diagonal matrix ``(out, in)``.

    In row-major order the entries of a block lie together: the stored values are the blocks, and nothing is copied.

    Args:
        shape: ``(out, in)``.
        blocks: How many.
        device: Of the values.
    """

    shape: torch.Size
    blocks: int
    device: torch.device

    @classmethod
    def of(cls, envelope: Envelope, device: torch.device) -> Blocks | None:
        """The form of a matrix with this envelope; None if it is not one of equal full blocks."""
        rows, columns = envelope.shape
        width = int(envelope.counts[0])
        if not width or columns % width or rows % (columns // width):
            return None
        blocks = columns // width
        first = torch.arange(rows, device=envelope.first.device) // (rows // blocks) * width
        alike = bool((envelope.counts == width).all() & (envelope.first == first).all())
        full = bool((envelope.last - envelope.first == width).all())
        return cls(envelope.shape, blocks, device) if alike and full else None

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of one block."""
        return self.shape[0] // self.blocks, self.shape[1] // self.blocks

    @property
    def count(self) -> int:
        return self.shape.numel() // self.blocks

    def positions(self) -> Tensor:
        rows, columns = self.size
        row = torch.arange(self.shape[0], device=self.device)
        first = row * self.shape[1] + row // rows * columns
        every = first[:, None] + torch.arange(columns, device=self.device)
        return every.flatten().to(index_dtype(self.shape.numel()))

    def laid_out(self, rows: Tensor) -> Tensor:
        return rows

    def operands(self, values: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        return ()

    def product(self, input: Tensor, values: Tensor, operands: tuple[Tensor, ...], transposed: bool) -> Tensor:  # noqa: ARG002
        blocks = values.view(self.blocks, *self.size)
        output = torch.bmm(self._split(input), blocks if transposed else blocks.mT)
        together = output.transpose(0, 1).reshape(input.shape[0], self.shape[int(transposed)])
        return together.contiguous()  # for blocks of one row it is a view, whose layout no tangent has

    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.bmm(self._split(left).mT, self._split(right)).view(self.count)

    def _split(self, rows: Tensor) -> Tensor:
        """``(batch, features)`` as ``(blocks, batch, features of one block)``."""
        return rows.reshape(rows.shape[0], self.blocks, rows.shape[1] // self.blocks).transpose(0, 1)
