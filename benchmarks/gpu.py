"""The products on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.cases import DENSITIES, KINDS, SPARSE, Case
from benchmarks.contestants import BY_HAND, PLAIN, contestants, ours
from benchmarks.measure import progress, take_turns, work_of
from benchmarks.report import multiples, origin, table
from parametrizations import explain
from parametrizations.typing import Product

SHAPES = ((1024, 128), (4096, 128), (4096, 2048), (8192, 2048))
"""Features and batch."""
STRUCTURES = ("block_diagonal(8)", "banded(64, 64)", "lower_triangular()")
WEIGHTS = (*KINDS[:3], *((SPARSE, mask) for mask in ("1 %", "10 %", *STRUCTURES)))
REPLACED: tuple[Product, ...] = ("dense", "replaced-diagonal")
PRODUCTS: dict[str, tuple[Product, ...]] = {
    "Diagonal": ("elementwise",),
    "ZeroDiagonal": REPLACED,
    "NegExpDiagonal": REPLACED,
    SPARSE: ("dense", "strips"),
}
COLUMNS = (BY_HAND, "elementwise", "dense", "replaced-diagonal", "strips")


def on_device(device: torch.device, shapes: Sequence[tuple[int, int]] = SHAPES, *, seconds: float = 0.3) -> str:
    """A table of every constraint, in float32 and bfloat16."""
    rows = []
    cases = [Case(constraint, *shape, mask) for shape in shapes for constraint, mask in WEIGHTS]
    for case in progress(cases):
        layers = _layers(case)
        for dtype in (torch.float32, torch.bfloat16):
            moved = {name: layer.to(device, dtype) for name, layer in layers.items()}
            taken = {name for name, layer in moved.items() if name in (PLAIN, BY_HAND, explain(layer).product)}
            times = take_turns({name: work_of(moved[name], case) for name in taken}, seconds=seconds)
            kind = str(dtype).removeprefix("torch.")
            sizes = f"{case.features}", f"{case.batch}", kind, f"{times[PLAIN]:.3g}"
            rows.append((case.weight, *sizes, *multiples(times, COLUMNS)))
    parts = (
        f"# What the constraints cost on {device.type}",
        table(("constraint", "features", "batch", "dtype", f"{PLAIN}, ms", *COLUMNS), rows),
        f"The work is a forward and backward pass with the gradients of input, weight and bias. `{BY_HAND}` and the "
        f"products of the package are multiples of `{PLAIN}`. A layer does not take the products without a figure.",
        origin(f" --device {device}", device),
    )
    return "\n\n".join(parts) + "\n"


def _layers(case: Case) -> dict[str, nn.Module]:
    """`nn.Linear`, the plain line, and the package's layer with each product."""
    layers = {name: layer for name, layer in contestants(case).items() if name in (PLAIN, BY_HAND)}
    products = (name for name in PRODUCTS[case.constraint] if name != "strips" or case.mask not in DENSITIES)
    return layers | {name: ours(case, name) for name in products}
