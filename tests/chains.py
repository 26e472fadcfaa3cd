"""The named table of chains for the laws about products: a first constraint, and others on top of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Parametrization, Signed, ZeroDiagonal, masks, signs
from parametrizations.parametrization import FLOATING
from parametrizations.testing.subject import Subject
from parametrizations.typing import Places
from tests.cases import SHAPES, checkerboard, mixed_signs, weight
from tests.layers import Doubled, cheaply_in_strips, equal_blocks


class Dale(Parametrization):
    """Signs by column: a user's own elementwise step."""

    needs = "every column to have its sign"
    dtypes = FLOATING

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.abs() * _signs(x, x.shape[1])

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return (-weight * _signs(weight, weight.shape[1])).clamp(min=0)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.forward(weight)

    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor:
        return x.abs() * _signs(x, places.shape[1])[places.columns]


def _signs(like: Tensor, columns: int) -> Tensor:
    return (torch.arange(columns, device=like.device) % 2 * 2 - 1).to(like.dtype)


@dataclass(frozen=True)
class Chain(Subject):
    """A subject with further steps on top, registered by PyTorch's own function."""

    others: Callable[[], list[nn.Module]]
    name: str
    """Of the product that the fused layer takes."""

    @override
    def layer(self, weight: Tensor | None = None) -> Any:
        layer = super().layer(weight)
        for step in self.others():
            register_parametrization(layer, "weight", step)
        return layer


Others = Callable[[], list[nn.Module]]
ROWS: dict[str, tuple[Callable[[], Parametrization], Others, str]] = {
    "diagonal-negative": (Diagonal, lambda: [NegExpDiagonal()], "elementwise"),
    "diagonal-zero": (Diagonal, lambda: [ZeroDiagonal()], "elementwise"),
    "diagonal-dense-negative": (lambda: Diagonal(product="dense"), lambda: [NegExpDiagonal()], "dense"),
    "diagonal-three": (Diagonal, lambda: [NegExpDiagonal(), Dale()], "elementwise"),
    "triangle-dense-negative": (
        lambda: MaskedSparse(masks.lower_triangular(), product="dense"),
        lambda: [NegExpDiagonal()],
        "dense",
    ),
    "triangle-negative": (
        lambda: MaskedSparse(masks.lower_triangular(), product="strips"),
        lambda: [NegExpDiagonal()],
        "strips",
    ),
    "triangle-sparse-negative": (
        lambda: MaskedSparse(masks.lower_triangular(), product="csr"),
        lambda: [NegExpDiagonal()],
        "csr",
    ),
    "triangle-three": (
        lambda: MaskedSparse(masks.lower_triangular(), product="strips"),
        lambda: [NegExpDiagonal(), ZeroDiagonal()],
        "strips",
    ),
    "random-sparse-zero": (
        lambda: MaskedSparse(masks.random(density=0.5, generator=torch.Generator().manual_seed(1)), product="csr"),
        lambda: [ZeroDiagonal()],
        "csr",
    ),
    "random-zero": (
        lambda: MaskedSparse(masks.random(density=0.5, generator=torch.Generator().manual_seed(1)), product="strips"),
        lambda: [ZeroDiagonal()],
        "strips",
    ),
    "strips-zero": (lambda: MaskedSparse(cheaply_in_strips, product="strips"), lambda: [ZeroDiagonal()], "strips"),
    "blocks-negative": (lambda: MaskedSparse(equal_blocks, product="strips"), lambda: [Dale()], "strips"),
    "without-the-diagonal": (
        lambda: MaskedSparse(lambda shown: ~checkerboard((shown.shape[0], shown.shape[1])), product="strips"),
        lambda: [NegExpDiagonal()],
        "dense",
    ),
    "random-signed": (
        lambda: MaskedSparse(masks.random(density=0.5, generator=torch.Generator().manual_seed(1)), product="csr"),
        lambda: [ZeroDiagonal(), Signed(-1, map="softplus")],
        "csr",
    ),
    "triangle-columns-signed": (
        lambda: MaskedSparse(masks.lower_triangular(), product="strips"),
        lambda: [Signed(lambda weight: mixed_signs(weight.shape))],
        "strips",
    ),
    "diagonal-signed": (Diagonal, lambda: [Signed(signs.as_is())], "elementwise"),
    "zero-signed": (ZeroDiagonal, lambda: [Signed(1)], "dense"),
    "foreign": (Diagonal, lambda: [Doubled()], "dense"),
    "foreign-between": (Diagonal, lambda: [Doubled(), ZeroDiagonal()], "dense"),
    "not-compact": (ZeroDiagonal, lambda: [NegExpDiagonal()], "dense"),
}

CHAINS = {
    f"{row}-{name}-{str(dtype).removeprefix('torch.')}": Chain(first(), weight(shape, dtype), others, product)
    for row, (first, others, product) in ROWS.items()
    for name, shape in SHAPES.items()
    for dtype in (torch.float32, torch.float64, torch.bfloat16)
}
