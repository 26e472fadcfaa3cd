"""The ways to write each constraint: what people write by hand, what libraries offer, and ours."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrize import register_parametrization

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Parametrization, ZeroDiagonal, fuse
from parametrizations._products.choice import Product

__all__ = ["CONSTRAINTS", "PLAIN", "Case", "contestants", "registered"]

PLAIN = "nn.Linear"
CONSTRAINTS = ("Diagonal", "ZeroDiagonal", "NegExpDiagonal", "MaskedSparse")


@dataclass(frozen=True)
class Case:
    """One size to compare at; ``density`` is used by `MaskedSparse` alone."""

    constraint: str
    n: int
    batch: int
    density: float = 0.0

    def __str__(self) -> str:
        density = f", {self.density:.1%}" if self.density else ""
        return f"{self.constraint} n={self.n}, batch={self.batch}{density}"


class Written(nn.Module):
    """A layer as people write it by hand: a function of the input, the parameter and the bias."""

    def __init__(self, stored: Tensor, multiply: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stored, self.bias = nn.Parameter(stored), nn.Parameter(torch.zeros(stored.shape[-1], device=stored.device))
        self.multiply = multiply

    def forward(self, input: Tensor) -> Tensor:
        """``(batch, n)`` from ``(batch, n)``."""
        return self.multiply(input, self.stored, self.bias)


def contestants(case: Case, device: torch.device, compiled: bool) -> dict[str, nn.Module]:
    """A layer for each way, by name; without dense ones where a dense weight does not fit."""
    made = _by_hand(case, device)
    if case.n <= 8192:
        made = {PLAIN: nn.Linear(case.n, case.n, device=device), **made}
        made["ours, registered"] = registered(case, device)
    made["ours, fused"] = fuse(registered(case, device))
    if case.constraint != "Diagonal" and 256 <= case.n <= 1024:  # around the crossovers
        made["ours, structured"] = fuse(registered(case, device, "structured"))
    if compiled:
        made |= {f"{name}, compiled": _compiled(made[name]) for name in ("ours, registered", "ours, fused")}
    return made


def _compiled(layer: nn.Module) -> nn.Module:
    compiled: Any = torch.compile(copy.deepcopy(layer), fullgraph=True)
    layer_like: nn.Module = compiled
    return layer_like


def registered(case: Case, device: torch.device, product: Product = "auto") -> nn.Module:
    """A layer with our parametrization, not fused; built on meta where a dense weight does not fit."""
    makes: dict[str, Callable[[], Parametrization]] = {
        "Diagonal": lambda: Diagonal(product=product),
        "ZeroDiagonal": lambda: ZeroDiagonal(product=product),
        "NegExpDiagonal": lambda: NegExpDiagonal(product=product),
        "MaskedSparse": lambda: MaskedSparse(mask_of(case), product=product),
    }
    small = case.n <= 8192
    layer = nn.Linear(case.n, case.n, device=device if small else "meta")
    register_parametrization(layer, "weight", makes[case.constraint]())
    if not small:
        layer = layer.to_empty(device=device)
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return layer


def mask_of(case: Case) -> Tensor:
    """The same random mask at every call."""
    return torch.rand(case.n, case.n, generator=torch.Generator().manual_seed(0)) < case.density


def _by_hand(case: Case, device: torch.device) -> dict[str, nn.Module]:
    ways = {"Diagonal": _diagonal, "ZeroDiagonal": _zero, "NegExpDiagonal": _negative, "MaskedSparse": _sparse}
    return ways[case.constraint](case, device)


def _diagonal(case: Case, device: torch.device) -> dict[str, nn.Module]:
    vector = torch.randn(case.n, device=device)
    made: dict[str, nn.Module] = {"x * w + b": Written(vector, lambda x, w, b: x * w + b)}
    if case.n <= 8192:
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
    places, factors = mask.nonzero().mT, mask.float()

    def from_sparse(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.linear(x, torch.sparse_coo_tensor(places, w, mask.shape, is_coalesced=True).to_dense(), b)

    made = {
        "weight * mask": Written(matrix, lambda x, w, b: F.linear(x, w * factors, b)),
        "prune.custom_from_mask": pruned,
    }
    listed = Written(matrix[mask], from_sparse)
    listed.bias = nn.Parameter(torch.zeros(case.n, device=device))
    return made | {"dense from sparse": listed}
