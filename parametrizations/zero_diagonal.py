"""`ZeroDiagonal`: a weight with zeros on its main diagonal."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations._diagonals import ReplacedDiagonals
from parametrizations._products.dense import with_diagonal
from parametrizations._products.form import form_linear
from parametrizations._products.places import Places
from parametrizations._products.replaced_diagonal import ZeroedDiagonal
from parametrizations._torch.private import is_traced

__all__ = ["ZeroDiagonal"]


class ZeroDiagonal(ReplacedDiagonals):
    """A weight with exact zeros on its main diagonal, so output ``i`` does not depend on input ``i``.

    ``weight[i, i] = 0``, ``weight[i, j] = x[i, j]`` for ``i != j``. The weight and the free parameters ``x`` are
    ``(out, in)``, square or not, real or complex. The diagonal of ``x`` has no effect, and its gradient is 0.

    Registering keeps the entries off the diagonal bit for bit. Assigning a weight with a non-zero diagonal raises, or
    sets the diagonal to 0 (``on_infeasible="project"``). Item-to-item recommenders use this constraint: Steck,
    *Embarrassingly Shallow Autoencoders for Sparse Data*, 2019, arXiv 1905.03375.

    Args:
        blocks: The number of equal blocks of rows, each with a main diagonal, as for `Diagonal`: 4 for `nn.LSTM`.
        axes: The axes of outputs and inputs, for a weight with more than two dimensions, as for `Diagonal`.
        on_infeasible: What assigning a weight outside the set does: ``"raise"`` a `ValueError`, or ``"project"`` it.
        product: How a fused `nn.Linear` (see `fuse`) multiplies: ``"auto"`` chooses by measured costs; `explain` lists
            the other names. It may be set at any time; `tune` selects the fastest.

    Raises:
        TypeError: As for `Diagonal`.
        ValueError: As for `Diagonal`.

    Example:
        >>> from torch import nn
        >>> from parametrizations import register
        >>> layer = register(nn.Linear(3, 3), {"weight": ZeroDiagonal()})
        >>> layer.weight.diagonal().detach()
        tensor([0., 0., 0.])
    """

    needs = "every entry on the main diagonal to be 0"
    has_zeros = True
    large = 2**20
    explain, linear = ReplacedDiagonals.explain, ReplacedDiagonals.linear

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.has_one_diagonal and not is_traced():
            return with_diagonal(x, x.new_zeros(min(x.shape)))
        return self.with_diagonals(x, torch.zeros_like(self.diagonals(x)))

    @override
    def linear_in_parts(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return form_linear(input, x, bias, ZeroedDiagonal.of(x, self.block_count))

    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        if places.diagonal is not None and self.has_blocks_of(places):
            return x.scatter(0, places.diagonal, 0)
        return self.on_stored_diagonals(x, places, lambda own: own.masked_fill(torch.ones_like(own).bool(), 0))

    invert_entries = on_entries  # type: ignore[assignment]  # the name of an argument differs

    @override
    def excess(self, weight: Tensor) -> Tensor:
        size = weight.abs()
        return self.with_diagonals(torch.zeros_like(size), self.diagonals(size))

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.forward(weight)
