"""The layers that are compared on a GPU: every way of ours to multiply, also those that it takes on the CPU alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured
from typing_extensions import override

from benchmarks.by_hand import Written, by_hand
from benchmarks.cases import TWO_OF_FOUR, Case, mask_of
from benchmarks.contestants import PLAIN, registered
from parametrizations import fuse, neg_exp_diagonal, zero_diagonal
from parametrizations._products import csr
from parametrizations._products.entries import entries_linear
from parametrizations._products.replaced_diagonal import DiagonalMap, replaced_diagonal_linear
from parametrizations._products.transposed import transposed as copied_transposed
from parametrizations.typing import Product

__all__ = ["ways"]

Build = Callable[[], nn.Module]


def ways(case: Case, device: torch.device) -> dict[str, Build]:
    """What builds a layer for each way, by name: a plain one, those by hand, and ours."""
    made: dict[str, Build] = {PLAIN: partial(nn.Linear, case.n, case.n, device=device)}
    made |= {name: partial(_itself, layer) for name, layer in by_hand(case, device).items()}
    made |= {f"ours, {way}": partial(_fused, case, device, way) for way in _products(case)}
    if case.constraint in DIAGONALS:
        made["ours, strips"] = partial(_in_strips, case, device)
    elif case.density:
        made["ours, CSR"] = partial(_by_entries, case, device)
    elif case.structure == TWO_OF_FOUR:
        made["2:4"] = partial(_two_of_four, case, device)
    return made


def _itself(layer: nn.Module) -> nn.Module:
    return layer


def _fused(case: Case, device: torch.device, product: Product) -> nn.Module:
    return fuse(registered(case, device, product))


def _products(case: Case) -> tuple[Product, ...]:
    """The ways that can be asked for on any device."""
    if case.constraint == "Diagonal":
        return ("element-wise",)
    return ("dense", "skyline") if case.structure not in ("", TWO_OF_FOUR) else ("dense",)


DIAGONALS: dict[str, DiagonalMap] = {
    "ZeroDiagonal": zero_diagonal._zeros,
    "NegExpDiagonal": neg_exp_diagonal._diagonal,
}


def _in_strips(case: Case, device: torch.device) -> nn.Module:
    matrix, diagonal = torch.randn(case.n, case.n, device=device), DIAGONALS[case.constraint]
    return Written(matrix, lambda x, w, b: replaced_diagonal_linear(x, w, b, diagonal))


def _by_entries(case: Case, device: torch.device) -> nn.Module:
    positions = mask_of(case).flatten().nonzero().flatten().to(device)
    pattern = OnAnyDevice.of(torch.Size((case.n, case.n)), positions)
    layer = Written(torch.randn(positions.numel(), device=device), lambda x, w, b: entries_linear(x, w, b, pattern))
    layer.bias = nn.Parameter(torch.zeros(case.n, device=device))
    return layer


class OnAnyDevice(csr.Pattern):
    """With the sparse product that PyTorch has on every device: on CUDA it is cuSPARSE's."""

    @override
    def product(self, input: Tensor, values: Tensor, operands: tuple[Tensor, ...], transposed: bool) -> Tensor:
        rows = self.by_columns if transposed else self.by_rows
        values = values.index_select(0, self.order) if transposed else values
        matrix = csr._csr(rows.starts, rows.columns, values, (self.shape[int(transposed)], input.shape[1]))
        return (matrix @ copied_transposed(input)).mT


def _two_of_four(case: Case, device: torch.device) -> nn.Module:
    """What GPUs of NVIDIA have units for; the weight has no gradient, so it is for inference."""
    layer = nn.Linear(case.n, case.n, device=device)
    masked = layer.weight.detach() * mask_of(case).to(layer.weight)
    layer.weight = nn.Parameter(to_sparse_semi_structured(masked), requires_grad=False)
    return layer
