"""`ZeroDiagonal`: a weight with zeros on its main diagonal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from parametrizations._diagonals import OnDiagonals
from parametrizations._products.choice import AXES, Explanation, explain_replaced_diagonal
from parametrizations._products.dense import with_diagonal
from parametrizations._products.form import form_linear
from parametrizations._products.operands import has_rows, require_operands
from parametrizations._products.places import Places
from parametrizations._products.replaced_diagonal import ZeroedDiagonal
from parametrizations._torch.private import is_traced

__all__ = ["ZeroDiagonal"]

LARGE = 2**20
"""With fewer entries, a copy of the matrix takes less time than a product in parts."""


class ZeroDiagonal(OnDiagonals):
    """A weight with exact zeros on its main diagonal, so output ``i`` does not depend on input ``i``.

    ``weight[i, i] = 0``, ``weight[i, j] = x[i, j]`` for ``i != j``. The weight and the free parameters ``x`` are
    ``(out, in)``, square or not, real or complex. The diagonal of ``x`` has no effect and gets no gradient.

    Registering keeps the entries off the diagonal bit for bit. Assigning a weight with a non-zero diagonal raises, or
    sets the diagonal to 0 (``on_infeasible="project"``). Item-to-item recommenders use this constraint: Steck,
    *Embarrassingly Shallow Autoencoders for Sparse Data*, 2019, arXiv 1905.03375.

    Args:
        blocks: The number of equal blocks of rows, each with a main diagonal, as for `Diagonal`: 4 for `nn.LSTM`, 3 for
            `nn.GRU` and for ``in_proj_weight`` of attention. None means 1, and makes `register` warn for these layers.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions, as for `Diagonal`.
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
        >>> layer = register(nn.Linear(3, 3), {"weight": ZeroDiagonal()})
        >>> layer.weight.diagonal().detach()
        tensor([0., 0., 0.])
    """

    needs = "every entry on the main diagonal to be 0"
    products = ("replaced-diagonal",)
    has_zeros = True

    @override
    def forward(self, x: Tensor) -> Tensor:
        if is_traced() or self.axes is not None:
            return self.with_diagonals(x, torch.zeros_like(self.diagonals(x)))
        if self.has_one_diagonal:
            return with_diagonal(x, x.new_zeros(min(x.shape)))
        blocks = self.block_count
        return self.with_diagonals(x, x.new_zeros(blocks, min(x.shape[0] // blocks, x.shape[1])))

    @override
    def explain(self, x: Tensor) -> Explanation:
        return AXES if self.axes is not None else explain_replaced_diagonal(x, self.product, LARGE)

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        # Checked first: explain takes as long as a small layer. Under a tracer, sizes are tensors.
        small = is_traced() or (self._product == "auto" and x.numel() < LARGE)
        if small or self.explain(x).product == "dense" or not has_rows(input):
            return F.linear(input, self.forward(x), bias)
        require_operands(input, x, bias, x.shape[1])
        return form_linear(input, x, bias, ZeroedDiagonal.of(x, self.block_count))

    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        if self.axes is not None or places.blocks != self.block_count:
            return None
        if places.diagonal is None:
            return x.masked_fill(torch.ones_like(x, dtype=torch.bool), 0)
        return x.scatter(0, places.diagonal, 0)

    @override
    def invert_entries(self, entries: Tensor, places: Places) -> Tensor | None:
        return self.on_entries(entries, places)

    @override
    def excess(self, weight: Tensor) -> Tensor:
        size = weight.abs()
        return self.with_diagonals(torch.zeros_like(size), self.diagonals(size))

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.forward(weight)
