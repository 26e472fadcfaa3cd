"""The layers that are compared: a plain one, the ways by hand, and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from benchmarks.by_hand import by_hand
from benchmarks.cases import CHAIN, STABLE, Case, mask_of
from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Parametrization, ZeroDiagonal, fuse
from parametrizations.typing import Product

__all__ = ["CONSTRAINTS", "OURS", "PLAIN", "REGISTERED", "STRUCTURED", "as_compiled", "contestants", "registered"]

PLAIN = "nn.Linear"
OURS = "ours, fused"
REGISTERED = "ours, registered"
STRUCTURED = "ours, structured"
COMPILED = (REGISTERED, OURS)

CONSTRAINTS: dict[str, Callable[[Case, Product], list[Parametrization]]] = {
    "Diagonal": lambda _, product: [Diagonal(product=product)],
    "ZeroDiagonal": lambda _, product: [ZeroDiagonal(product=product)],
    "NegExpDiagonal": lambda _, product: [NegExpDiagonal(product=product)],
    "MaskedSparse": lambda case, product: [MaskedSparse(mask_of(case), product=product)],
    CHAIN: lambda _, product: [Diagonal(product=product), NegExpDiagonal()],
    STABLE: lambda case, product: [MaskedSparse(mask_of(case), product=product), NegExpDiagonal()],
}


def contestants(case: Case, device: torch.device, compiled: bool) -> dict[str, nn.Module]:
    """A layer for each way, by name; without dense ones where a dense weight does not fit."""
    made = by_hand(case, device)
    if case.fits_densely:
        made = {PLAIN: nn.Linear(case.n, case.n, device=device), **made}
        made[REGISTERED] = registered(case, device)
    made[OURS] = fuse(registered(case, device))
    if case.constraint != "Diagonal" and 256 <= case.n <= 1024 and case.work == "step":  # around the crossovers
        made[STRUCTURED] = fuse(registered(case, device, "structured"))
    if compiled:
        made |= {f"{name}, compiled": as_compiled(copy.deepcopy(made[name])) for name in COMPILED}
    return made


def as_compiled(layer: nn.Module) -> nn.Module:
    """The layer, compiled whole."""
    compiled: Any = torch.compile(layer, fullgraph=True)
    layer_like: nn.Module = compiled
    return layer_like


def registered(case: Case, device: torch.device, product: Product = "auto") -> nn.Module:
    """A layer with our parametrization, not fused; built on meta where a dense weight does not fit."""
    layer = nn.Linear(case.n, case.n, device=device if case.fits_densely else "meta")
    for parametrization in CONSTRAINTS[case.constraint](case, product):
        register_parametrization(layer, "weight", parametrization)
    if not case.fits_densely:
        layer = layer.to_empty(device=device)
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return layer
