"""`Diagonal`: a weight with zeros off its main diagonal."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations._diagonals import OnDiagonals
from parametrizations._products.choice import ASKED, AXES, ELEMENTWISE, Explanation
from parametrizations._products.dense import require_memory
from parametrizations._products.diagonal import diagonal_linear
from parametrizations._products.operands import has_rows, require_operands
from parametrizations._products.places import Places

__all__ = ["Diagonal"]


class Diagonal(OnDiagonals):
    """A weight with ``x`` on its main diagonal and exact zeros elsewhere.

    ``weight[i, i] = x[i]``, ``weight[i, j] = 0`` for ``i != j``. The weight is ``(out, in)``, square or not, real or
    complex. The free parameters are ``x``, ``(min(out, in),)``; with ``blocks`` or batches, one diagonal after another,
    ``(batch * blocks * min(out / blocks, in),)``. `Diagonal` must be the first parametrization of its tensor.

    Registering keeps the diagonal bit for bit and drops the rest. Assigning a weight with non-zero entries off the
    diagonal raises, or drops these entries (``on_infeasible="project"``).

    Args:
        blocks: The number of equal blocks of rows, each with a main diagonal: 4 for the gates of `nn.LSTM`, 3 for
            `nn.GRU` and for ``in_proj_weight`` of attention. None means 1, and makes `register` warn for these layers.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions, such as ``(-2, -1)`` for
            experts, ``(experts, out, in)``. All other axes are batch. For convolutions, `register` supplies them.
        on_infeasible: What assigning a weight outside the set does: ``"raise"`` a `ValueError`, or ``"project"`` it.
        product: How a fused `nn.Linear` (see `fuse`) multiplies: ``"auto"`` chooses by measured costs; `explain` lists
            the other names. It may be set at any time; `tune` selects the fastest.

    Raises:
        TypeError: If the weight, on registering or assigning, is not a dense tensor of a supported dtype.
        ValueError: If the weight is not finite, is not a matrix and ``axes`` are not given, or has rows that ``blocks``
            does not divide; on assigning, also if it has another shape or is outside the set.

    Example:
        >>> from torch import nn
        >>> from parametrizations import register
        >>> layer = register(nn.Linear(3, 2), {"weight": Diagonal()})
        >>> layer.weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> layer.parametrizations.weight.original
        Parameter containing:
        tensor([1., 2.], requires_grad=True)
    """

    needs = "every entry off the main diagonal to be 0"
    products = ("elementwise",)
    selects = True
    has_zeros = True

    @property
    @override
    def stored_shape(self) -> torch.Size:
        shape = self._known_shape
        if self.has_one_diagonal:
            return torch.Size([min(shape)])
        rows, columns = (shape[axis] for axis in self.matrix_axes(shape))
        batch = math.prod([shape[axis] for axis in range(len(shape)) if axis not in self.matrix_axes(shape)])
        return torch.Size([batch * self.block_count * min(rows // self.block_count, columns)])

    @override
    def forward(self, x: Tensor) -> Tensor:
        shape = self._require_stored(x)
        require_memory("Diagonal", shape.numel(), x)
        zeros = x.new_zeros(shape)
        return self.with_diagonals(zeros, x if self.has_one_diagonal else x.reshape(self.diagonals(zeros).shape))

    @override
    def explain(self, x: Tensor) -> Explanation:
        chosen = ASKED if self.product == "dense" else ELEMENTWISE
        return chosen if self.axes is None else AXES

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.product == "dense" or self.axes is not None or not has_rows(input):
            return super().linear(input, x, bias)
        shape = self._require_stored(x)
        require_operands(input, x, bias, shape[1])
        return diagonal_linear(input, x, bias, shape, self.block_count)

    @override
    def places(self, x: Tensor) -> Places | None:
        blocks = self.block_count
        return Places(self._known_shape, None, lambda: self._positions(x), blocks) if self.axes is None else None

    def _positions(self, x: Tensor) -> Tensor:
        """The row-major positions of the entries on the diagonals."""
        rows, columns = self._known_shape
        first = torch.arange(self.block_count, device=x.device) * (rows // self.block_count * columns)
        along = torch.arange(x.numel() // self.block_count, device=x.device) * (columns + 1)
        return (first[:, None] + along).flatten()

    @override
    def excess(self, weight: Tensor) -> Tensor:
        size = weight.abs()
        return self.with_diagonals(size, torch.zeros_like(self.diagonals(size)))

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.with_diagonals(torch.zeros_like(weight), self.diagonals(weight))

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return self.diagonals(weight).flatten()
