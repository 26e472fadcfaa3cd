"""The layers to compare: `nn.Linear`, the package's, and the same constraint in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from benchmarks.cases import CHAIN, SPARSE, STABLE, Case
from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, register
from parametrizations.typing import Product

PLAIN, OURS, BY_HAND = "nn.Linear", "ours", "by hand"
MASK_WAYS = ("weight * mask", "prune")

Line = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

LINES: dict[str, tuple[str, Line]] = {
    "Diagonal": ("x * w + b", lambda x, w, b, _: x * w + b),
    "ZeroDiagonal": (
        "F.linear(x, torch.diagonal_scatter(w, torch.zeros(n)), b)",
        lambda x, w, b, _: F.linear(x, torch.diagonal_scatter(w, w.new_zeros(len(w))), b),
    ),
    "NegExpDiagonal": (
        "F.linear(x, torch.diagonal_scatter(w, -w.diagonal().exp()), b)",
        lambda x, w, b, _: F.linear(x, torch.diagonal_scatter(w, -w.diagonal().exp()), b),
    ),
    SPARSE: (
        "F.linear(x, torch.zeros(n * n).scatter(0, positions, w).view(n, n), b)",
        lambda x, w, b, at: F.linear(x, w.new_zeros(len(b) ** 2).scatter(0, at, w).view(len(b), len(b)), b),
    ),
    CHAIN: ("x * -w.exp() + b", lambda x, w, b, _: x * -w.exp() + b),
    STABLE: (
        "F.linear(x, (w * mask).diagonal_scatter(-w.diagonal().exp()), b)",
        lambda x, w, b, mask: F.linear(x, (w * mask).diagonal_scatter(-w.diagonal().exp()), b),
    ),
}
"""The plain line of each constraint, as text and as a function."""


class ByHand(nn.Module):
    """A layer as a user writes it: its forward pass makes the zeros. ``constant`` is a mask, or positions of ``w``."""

    def __init__(self, line: Line, w: Tensor, b: Tensor, constant: Tensor) -> None:
        super().__init__()
        self.line, self.w, self.b = line, nn.Parameter(w.detach().clone()), nn.Parameter(b.detach().clone())
        self.constant: Tensor
        self.register_buffer("constant", constant)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, n)`` from ``(batch, n)``."""
        return self.line(x, self.w, self.b, self.constant)


def ours(case: Case, product: Product = "auto") -> nn.Linear:
    """The layer of the package."""
    layer = nn.Linear(case.features, case.features)
    with torch.no_grad():
        layer.weight.diagonal().abs_().neg_()  # as `NegExpDiagonal` needs it
    name, *on_top = case.constraint.split(", ")
    kinds = {"Diagonal": Diagonal, "ZeroDiagonal": ZeroDiagonal, "NegExpDiagonal": NegExpDiagonal}
    first = kinds[name](product=product) if name in kinds else MaskedSparse(case.kept(), product=product)
    return register(layer, {"weight": [first, *(NegExpDiagonal() for _ in on_top)]})


def contestants(case: Case) -> dict[str, nn.Module]:
    """The layers by name, all with the same weight and bias."""
    layer: Any = ours(case)
    w, weight, bias = layer.parametrizations.weight.original, layer.weight.detach(), layer.bias
    made: dict[str, nn.Module] = {PLAIN: _linear(weight, bias), OURS: layer}
    mask = case.kept() if case.mask else torch.ones(0)
    constant = mask.float()
    if case.constraint == SPARSE:
        constant = mask.flatten().nonzero().flatten()
        made["weight * mask"] = ByHand(lambda x, w, b, mask: F.linear(x, w * mask, b), weight, bias, mask.float())
        made["prune"] = prune.custom_from_mask(_linear(weight, bias), "weight", mask)  # type: ignore[no-untyped-call]
    if case.constraint == STABLE:
        w = weight.diagonal_scatter((-weight.diagonal()).log())
    made[BY_HAND] = ByHand(LINES[case.constraint][1], w, bias, constant)
    return made


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(len(bias), len(bias))
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer
