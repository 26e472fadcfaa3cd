"""The ways to have each constraint without this library: what people write by hand, and what libraries offer."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

from benchmarks.cases import CHAIN, STABLE, Case, mask_of
from parametrizations import MaskedSparse, fuse

__all__ = ["MASK_ALONE", "Written", "by_hand"]

MASK_ALONE = "the mask alone"


class Written(nn.Module):
    """A layer as people write it by hand: a function of the input, the parameter and the bias."""

    def __init__(self, stored: Tensor, multiply: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stored, self.bias = nn.Parameter(stored), nn.Parameter(torch.zeros(stored.shape[-1], device=stored.device))
        self.multiply = multiply

    def forward(self, input: Tensor) -> Tensor:
        """``(batch, n)`` from ``(batch, n)``."""
        return self.multiply(input, self.stored, self.bias)


def by_hand(case: Case, device: torch.device) -> dict[str, nn.Module]:
    """A layer for each way, by name."""
    ways = {
        "Diagonal": _diagonal,
        "ZeroDiagonal": _zero,
        "NegExpDiagonal": _negative,
        "MaskedSparse": _sparse,
        CHAIN: _chain,
        STABLE: _stable,
    }
    return ways[case.constraint](case, device)


def _diagonal(case: Case, device: torch.device) -> dict[str, nn.Module]:
    vector = torch.randn(case.n, device=device)
    made: dict[str, nn.Module] = {"x * w + b": Written(vector, lambda x, w, b: x * w + b)}
    if case.fits_densely:
        made["diag, dense product"] = Written(vector, lambda x, w, b: F.linear(x, torch.diag(w), b))
    if importlib.util.find_spec("linear_operator"):
        from linear_operator.operators import DiagLinearOperator

        made["linear_operator"] = Written(vector, lambda x, w, b: (DiagLinearOperator(w) @ x.mT).mT + b)
    return made


def _zero(case: Case, device: torch.device) -> dict[str, nn.Module]:
    matrix = torch.randn(case.n, case.n, device=device)
    off = 1 - torch.eye(case.n, device=device)
    return {
        "weight * mask": Written(matrix, lambda x, w, b: F.linear(x, w * off, b)),
        "clone, fill_diagonal_": Written(matrix, lambda x, w, b: F.linear(x, w.clone().fill_diagonal_(0), b)),
    }


def _negative(case: Case, device: torch.device) -> dict[str, nn.Module]:
    def clone_and_copy(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        weight = w.clone()
        weight.diagonal().copy_(-w.diagonal().exp())
        return F.linear(x, weight, b)

    def scatter(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.linear(x, w.diagonal_scatter(-w.diagonal().exp()), b)

    matrix = torch.randn(case.n, case.n, device=device)
    return {"clone, copy -exp": Written(matrix, clone_and_copy), "diagonal_scatter -exp": Written(matrix, scatter)}


def _sparse(case: Case, device: torch.device) -> dict[str, nn.Module]:
    mask, matrix = mask_of(case).to(device), torch.randn(case.n, case.n, device=device)
    pruned = prune.custom_from_mask(nn.Linear(case.n, case.n, device=device), "weight", mask)  # type: ignore[no-untyped-call]
    places, factors = mask.nonzero().mT, mask.to(matrix)

    def from_sparse(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.linear(x, torch.sparse_coo_tensor(places, w, mask.shape, is_coalesced=True).to_dense(), b)

    listed = Written(matrix[mask], from_sparse)
    listed.bias = nn.Parameter(torch.zeros(case.n, device=device))
    return {
        "weight * mask": Written(matrix, lambda x, w, b: F.linear(x, w * factors, b)),
        "prune.custom_from_mask": pruned,
        "dense from sparse": listed,
    }


def _chain(case: Case, device: torch.device) -> dict[str, nn.Module]:
    return {"x * -exp(a) + b": Written(torch.randn(case.n, device=device), lambda x, a, b: x * -a.exp() + b)}


def _stable(case: Case, device: torch.device) -> dict[str, nn.Module]:
    matrix = torch.randn(case.n, case.n, device=device)
    mask = mask_of(case).to(matrix)

    def masked_and_scattered(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.linear(x, (w * mask).diagonal_scatter(-w.diagonal().exp()), b)

    alone = register_parametrization(nn.Linear(case.n, case.n, device=device), "weight", MaskedSparse(mask_of(case)))
    return {"weight * mask, -exp": Written(matrix, masked_and_scattered), MASK_ALONE: fuse(alone)}
