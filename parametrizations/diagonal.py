"""`Diagonal`: a weight with zeros off its main diagonal."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations._products.choice import ASKED, ELEMENTWISE, Explanation
from parametrizations._products.dense import with_diagonal
from parametrizations._products.diagonal import diagonal_linear
from parametrizations._products.operands import has_rows, require_operands
from parametrizations._products.places import Places
from parametrizations._torch.memory import require_memory
from parametrizations.parametrization import Parametrization

__all__ = ["Diagonal"]


class Diagonal(Parametrization):
    """A weight with ``x`` on its main diagonal and exact zeros elsewhere.

    ``weight[i, i] = x[i]``, ``weight[i, j] = 0`` for ``i != j``. The free parameters are ``x``, of
    shape ``(min(out, in),)``; the weight is ``(out, in)``, square or not, real or complex. `Diagonal` must be the
    first parametrization of its tensor.

    Registering keeps the diagonal bit for bit and drops the rest. Assigning a weight with a non-zero
    entry off the diagonal raises, or also drops it (``on_infeasible="project"``).

    On ``nn.LSTM.weight_hh_l0``, ``(4 H, H)``, the diagonal covers only the input gate.

    Args:
        on_infeasible: What assigning a weight outside the set does: ``"raise"`` a `ValueError`, or ``"project"`` it.
        product: The product that a fused layer takes: ``"auto"`` (the one measured to be fastest),
            ``"dense"``, or one of the names that `explain` lists for this constraint; it may be set later, and `tune`
            measures which is fastest.

    Raises:
        TypeError: On registering and assigning, if the weight is not a dense tensor of a supported dtype.
        ValueError: On registering and assigning, if the weight does not have 2 dimensions, or is not finite; on
            assigning, if it has another shape or is outside the set.

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

    @property
    @override
    def stored_shape(self) -> torch.Size:
        return torch.Size([min(self._known_shape)])

    @override
    def forward(self, x: Tensor) -> Tensor:
        shape = self._require_stored(x)
        require_memory("Diagonal", shape.numel(), x)
        return with_diagonal(x.new_zeros(shape), x)

    @override
    def explain(self, x: Tensor) -> Explanation:
        return ASKED if self.product == "dense" else ELEMENTWISE

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.product == "dense" or not has_rows(input):
            return super().linear(input, x, bias)
        shape = self._require_stored(x)
        require_operands(input, x, bias, shape[1])
        return diagonal_linear(input, x, bias, shape)

    @override
    def places(self, x: Tensor) -> Places:
        step = self._known_shape[1] + 1
        return Places(self._known_shape, None, lambda: torch.arange(x.numel(), device=x.device) * step)

    @override
    def excess(self, weight: Tensor) -> Tensor:
        size = weight.abs()
        return size.diagonal_scatter(torch.zeros_like(size.diagonal()))

    @override
    def project(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight).diagonal_scatter(weight.diagonal())

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return weight.diagonal()

    @override
    def _inverted_projection(self, weight: Tensor) -> Tensor:
        return self.invert(weight)  # ignores the other entries
