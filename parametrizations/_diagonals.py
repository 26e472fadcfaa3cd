"""`OnDiagonals`: the base class of constraints on the main diagonals of a weight."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from parametrizations._checks import by_signature
from parametrizations._products.choice import AXES, Explanation, Product, explain_replaced_diagonal
from parametrizations._products.dense import with_diagonal
from parametrizations._products.operands import has_rows, require_operands
from parametrizations._products.places import Places
from parametrizations._torch.private import is_traced
from parametrizations.masks.arguments import Axes, as_axes, integers
from parametrizations.masks.rule import known_axes
from parametrizations.parametrization import Infeasible, Parametrization


class OnDiagonals(Parametrization):
    """A constraint on the main diagonals of a weight: one diagonal for each of ``blocks`` equal blocks of rows.

    A weight with more than two dimensions is a batch of matrices along ``axes``. Each matrix has such blocks.
    """

    @by_signature
    def __init__(
        self,
        *,
        blocks: int | None = None,
        axes: Axes = None,
        on_infeasible: Infeasible = "raise",
        product: Product = "auto",
    ) -> None:
        super().__init__(on_infeasible=on_infeasible, product=product)
        name = type(self).__name__
        if blocks is not None and integers(name, blocks)[0] < 1:
            raise ValueError(f"{name} needs blocks of at least 1. Got {blocks}. LSTM has 4 gates, GRU 3.")
        self.blocks = blocks
        if self.block_count > 1:
            self.needs = self.needs.replace("main diagonal", f"main diagonal of each of {blocks} blocks of rows")
        self._set_axes(as_axes(name, axes))

    def _set_axes(self, axes: Axes) -> None:
        self.axes = axes
        self.dims = 2 if axes is None else None
        self.has_one_diagonal = axes is None and self.block_count == 1

    @property
    def block_count(self) -> int:
        """The number of blocks of rows, each with a main diagonal."""
        return self.blocks or 1

    @property
    @override
    def _structure(self) -> str:
        axes = "" if self.axes is None else f", axes={self.axes}"
        return super()._structure + (f"(blocks={self.block_count}{axes})" if self.block_count > 1 or axes else "")

    @override
    def with_axes(self, axes: Axes) -> Self:
        if axes is None or self.axes is not None or self.shape is not None:
            return self
        twin = copy.copy(self)
        twin._set_axes(axes)
        return twin

    @override
    def options(self) -> dict[str, object]:
        return {name: value for name, value in super().options().items() if value is not None}

    @override
    def adopt(self, weight: Tensor) -> None:
        out, _ = self.matrix_axes(weight.shape)
        if weight.shape[out] % self.block_count:
            raise ValueError(
                f"{type(self).__name__} needs a number of rows that {self.block_count} blocks divide. Got "
                f"{weight.shape[out]}, of shape {tuple(weight.shape)}. Choose other blocks, or leave the layer out."
            )
        super().adopt(weight)

    def diagonals(self, weight: Tensor) -> Tensor:
        """A view of the main diagonals: ``(diagonal,)``, or with blocks or batches ``(*batch, blocks, diagonal)``."""
        return weight.diagonal() if self.has_one_diagonal else self._blocks(weight).diagonal(dim1=-2, dim2=-1)

    def with_diagonals(self, weight: Tensor, diagonals: Tensor) -> Tensor:
        """A copy of a weight with its main diagonals replaced. ``diagonals`` has the shape that `diagonals` returns."""
        if self.has_one_diagonal:
            return with_diagonal(weight, diagonals)
        whole = with_diagonal(self._blocks(weight), diagonals)
        if self.axes is None:
            return whole.reshape(weight.shape)
        axes = self.matrix_axes(weight.shape)
        return whole.reshape(weight.movedim(axes, (-2, -1)).shape).movedim((-2, -1), axes)

    def _blocks(self, weight: Tensor) -> Tensor:
        """A view of the blocks: ``(*batch, blocks, rows, columns)``."""
        matrices = weight if self.axes is None else weight.movedim(self.matrix_axes(weight.shape), (-2, -1))
        *batch, rows, columns = matrices.shape
        return matrices.reshape(*batch, self.block_count, rows // self.block_count, columns)  # a view

    def matrix_axes(self, shape: torch.Size) -> tuple[int, int]:
        return known_axes(type(self).__name__, shape, self.axes)

    def has_blocks_of(self, places: Places) -> bool:
        """Whether ``places.diagonal`` refers to the main diagonals of this constraint."""
        return self.axes is None and places.blocks == self.block_count

    def on_stored_diagonals(self, x: Tensor, places: Places, function: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The stored entries ``x``, with ``function`` applied to those on the main diagonals.

        None with ``axes``, or if ``places`` counts another number of blocks than this constraint.
        """
        if not self.has_blocks_of(places):
            return None
        if places.diagonal is None:
            return function(x)
        return x.scatter(0, places.diagonal, function(x.index_select(0, places.diagonal)))


class ReplacedDiagonals(OnDiagonals):
    """A constraint that replaces the main diagonals and keeps all other entries.

    A subclass defines ``forward``. This alone would reset ``linear`` and ``explain`` to the defaults of
    `Parametrization` (see `SHORTCUTS`). So each subclass assigns these two methods of this class again in its body.
    """

    products = ("replaced-diagonal",)
    large: int
    """If the weight has fewer entries, the product with a copy of it takes less time than `linear_in_parts`."""

    @override
    def explain(self, x: Tensor) -> Explanation:
        return AXES if self.axes is not None else explain_replaced_diagonal(x, self.product, self.large)

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        # The size is checked first, since explain takes as long as a small layer. Under a tracer, sizes are tensors, so
        # they are not compared.
        small = is_traced() or (self._product == "auto" and x.numel() < self.large)
        if small or self.explain(x).product == "dense" or not has_rows(input):
            return F.linear(input, self.forward(x), bias)
        require_operands(input, x, bias, x.shape[1])
        return self.linear_in_parts(input, x, bias)

    @abstractmethod
    def linear_in_parts(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """`linear`, which copies only the blocks on the diagonal, not the whole matrix."""
