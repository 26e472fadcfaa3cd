"""The product with a stored matrix and a replaced main diagonal, without a copy of the matrix.

A copy of the full matrix costs several passes over it. To correct the product with the stored matrix would lose digits
if the stored diagonal is much larger than that of the weight. So only the blocks on the diagonal are copied, with a
zero diagonal; the rest of the stored matrix is multiplied without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations._products.dense import with_diagonal
from parametrizations._products.form import Kernel, sum_of_products
from parametrizations._torch.private import are_transforms_active, is_traced
from parametrizations._torch.transforms import has_tangent, is_differentiated, is_recorded, may_look_at_values

BLOCK = 512
"""The largest number of rows, and of columns, of a copied block on the diagonal."""
MEDIUM = 2**18
"""For a matrix with fewer entries, plain autograd takes less time than `_WithDiagonal`, although plain autograd
allocates a second matrix for the gradient."""


@dataclass(frozen=True, eq=False)
class ZeroedDiagonal(Kernel):
    """A stored matrix ``(out, in)``, multiplied as if the main diagonals of its blocks of rows were zero.

    Args:
        shape: ``(out, in)``.
        blocks: The number of equal blocks of rows.
        zeroed: The stored matrix if its diagonals are zero, so that its product needs no copies; otherwise None. In
            derivatives, `product` gets a tangent or a gradient instead, recognised by its other address in memory.
    """

    shape: torch.Size
    blocks: int = 1
    zeroed: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, blocks: int = 1) -> Self:
        """A `ZeroedDiagonal` for a stored matrix. Its ``zeroed`` is ``x``, detached, if the diagonals are zero.

        `ZeroDiagonal` stores zeros there unless a user writes others. Under a compiler, ``zeroed`` is None.
        """
        form = cls(x.shape, blocks)
        is_zero = may_look_at_values(x) and not form._diagonals(x).any()
        return cls(x.shape, blocks, x.detach()) if is_zero else form

    @override
    def dense(self, values: Tensor) -> Tensor:
        return with_diagonal(self._by_blocks(values), torch.zeros_like(self._diagonals(values))).view(self.shape)

    @override
    def entries(self, weight: Tensor) -> Tensor:
        return self.dense(weight)

    @override
    def product(self, input: Tensor, values: Tensor, transposed: bool) -> Tensor:
        zeroed = self.zeroed
        if zeroed is not None and may_look_at_values(values) and values.data_ptr() == zeroed.data_ptr():
            return input @ (values if transposed else values.mT)
        return sum_of_products(self._parts(values), input, self.shape[int(transposed)], transposed)

    @override
    def sampled(self, left: Tensor, right: Tensor) -> Tensor:
        outer = left.mT @ right
        self._diagonals(outer).zero_()
        return outer

    def _by_blocks(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.blocks, self.shape[0] // self.blocks, self.shape[1])

    def _diagonals(self, matrix: Tensor) -> Tensor:
        return self._by_blocks(matrix).diagonal(0, -2, -1)

    def _parts(self, x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Parts for `sum_of_products`: copies of the diagonal blocks, with a zero diagonal, and views of the rest."""
        height = max(x.shape[0] // self.blocks, 1)
        for row in (first + row for first in range(0, x.shape[0], height) for row in range(0, height, BLOCK)):
            strip = x.narrow(0, row, min(BLOCK, height - row % height))
            left, right = min(row % height, x.shape[1]), min(row % height + strip.shape[0], x.shape[1])
            if left > 0:
                yield row, 0, strip.narrow(1, 0, left)
            if left < right:
                block = strip.narrow(1, left, right - left).clone()
                block.diagonal().zero_()
                yield row, left, block
            if right < x.shape[1]:
                yield row, right, strip.narrow(1, right, x.shape[1] - right)


def with_own_diagonal(
    x: Tensor, diagonals: Callable[[Tensor], Tensor], with_diagonals: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """``x`` and its diagonals. Backward writes the diagonals' gradient into the diagonals of the gradient of ``x``.

    Plain autograd would allocate a second matrix for the gradient of the diagonals, and add it. The functions are
    methods of `OnDiagonals`: a view of the diagonals of a matrix, and a copy of a matrix with other diagonals.
    """
    if is_traced() or x.numel() < MEDIUM or are_transforms_active() or is_recorded() or has_tangent(x):
        return x, diagonals(x)
    matrix, own = _WithDiagonal.apply(x, diagonals, with_diagonals)  # type: ignore[no-untyped-call]
    return matrix, own


class _WithDiagonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, diagonals: Any, with_diagonals: Any) -> tuple[Tensor, Tensor]:
        ctx.diagonals, ctx.with_diagonals = diagonals, with_diagonals
        return x.view_as(x), diagonals(x).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor, of_diagonals: Tensor) -> tuple[Tensor, None, None]:
        if is_differentiated(grad, of_diagonals):
            return ctx.with_diagonals(grad, of_diagonals), None, None
        ctx.diagonals(grad).copy_(of_diagonals)
        return grad, None, None
