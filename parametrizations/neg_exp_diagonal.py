"""`NegExpDiagonal`: a weight with a negative main diagonal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations._diagonals import ReplacedDiagonals
from parametrizations._products.form import form_linear
from parametrizations._products.places import Places
from parametrizations._products.replaced_diagonal import MEDIUM, ZeroedDiagonal, with_own_diagonal
from parametrizations._signed_entries import EXP, Signs
from parametrizations.positive import is_plain

__all__ = ["NegExpDiagonal"]

NEGATIVE = Signs(-1)


class NegExpDiagonal(ReplacedDiagonals):
    """A weight with a finite and strictly negative main diagonal, for all finite stored values.

    ``weight[i, i] = -exp(x[i, i])``, ``weight[i, j] = x[i, j]`` for ``i != j``. The weight and the free parameters,
    ``x``, are ``(out, in)``, square or not. For a complex weight the real part of the diagonal is negative:
    ``-exp(x.real) + i x.imag``, as in S4D (Gu et al. 2022, arXiv 2206.11893).

    ``exp`` alone overflows and underflows. So above ``c`` (8 in float16, 80 in bfloat16 and float32, 700 in float64)
    the diagonal is ``-exp(c) (1 + log(1 + x - c))``, which has the same value and slope at ``c``. The diagonal never
    comes closer to 0 than the smallest normal number. Its gradient is finite, and is 0 only at this number.

    Registering keeps negative diagonal entries ``w``, up to a relative error of ``1 + |log |w||`` machine epsilons. Any
    other diagonal entry becomes ``-max(|w|, 1e-4)``, because a number next to 0 would not train. Diagonal entries
    outside the range of the map are clamped to it. Assigning a weight with a diagonal entry at 0 or above, or outside
    the range, raises, unless ``on_infeasible="project"``. Entries off the diagonal are kept bit for bit.

    Limits: a negative diagonal alone does *not* make a matrix stable. After a lower-triangular `MaskedSparse` it does,
    since the eigenvalues are then the diagonal. Weight decay on ``x`` pulls the diagonal to -1, not to 0: exempt ``x``
    from it, as Mamba does with its ``A_log`` (Gu and Dao 2023, arXiv 2312.00752; ``mamba_simple.py``).

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
        >>> layer = nn.Linear(2, 2)
        >>> _ = nn.init.constant_(layer.weight, 0.5)
        >>> _ = register(layer, {"weight": NegExpDiagonal()})
        >>> print(layer.weight.detach())
        tensor([[-0.5000,  0.5000],
                [ 0.5000, -0.5000]])
    """

    needs = "every entry on the main diagonal to be negative, and no larger than its dtype can train"
    large = 2**21
    explain, linear = ReplacedDiagonals.explain, ReplacedDiagonals.linear

    @override
    def forward(self, x: Tensor) -> Tensor:
        # The plain line for the usual small layer. The helpers below would take a twentieth of the layer's time.
        if self.has_one_diagonal and is_plain(diagonal := x.diagonal()) and x.numel() < MEDIUM:
            return x.diagonal_scatter(-diagonal.exp())
        matrix, diagonals = with_own_diagonal(x, self.diagonals, self.with_diagonals)
        return self.with_diagonals(matrix, EXP.weight(diagonals, NEGATIVE))

    @override
    def linear_in_parts(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        matrix, diagonals = with_own_diagonal(x, self.diagonals, self.with_diagonals)
        blocks, size = self.block_count, diagonals.shape[-1]
        output = form_linear(input, matrix, bias, ZeroedDiagonal(x.shape, blocks))
        inputs, outputs = input.narrow(-1, 0, size), output
        if blocks > 1:
            inputs, outputs = inputs.unsqueeze(-2), output.view(*input.shape[:-1], blocks, x.shape[0] // blocks)
        outputs.narrow(-1, 0, size).add_(inputs * EXP.weight(diagonals, NEGATIVE))
        return output

    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        return self._on_diagonal(x, places, lambda own: EXP.weight(own, NEGATIVE))

    @override
    def invert_entries(self, entries: Tensor, places: Places) -> Tensor | None:
        return self._on_diagonal(entries, places, lambda own: EXP.invert(EXP.project(own, NEGATIVE), NEGATIVE))

    def _on_diagonal(self, x: Tensor, places: Places, function: Callable[[Tensor], Tensor]) -> Tensor | None:
        # If the diagonal is not stored as a whole: None, since forward writes -exp(0) = -1 at the missing positions.
        return self.on_stored_diagonals(x, places, function) if places.has_whole_diagonal else None

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return self.with_diagonals(torch.zeros_like(weight.real), EXP.excess(self.diagonals(weight), NEGATIVE))

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.with_diagonals(weight, EXP.project(self.diagonals(weight), NEGATIVE))

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return self.with_diagonals(weight, EXP.invert(self.diagonals(weight), NEGATIVE))

    @override
    def _inverted_projection(self, weight: Tensor) -> Tensor:
        diagonals = EXP.project(self.diagonals(weight), NEGATIVE)
        return self.with_diagonals(weight, EXP.invert(diagonals, NEGATIVE))

    @override
    def rounding(self, weight: Tensor) -> Tensor:
        return self.with_diagonals(torch.zeros_like(weight.real), EXP.rounding(self.diagonals(weight), NEGATIVE))
