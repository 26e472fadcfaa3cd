"""Helpers that build the layers under test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Parametrization, ZeroDiagonal, fuse, masks


class NonNegative(Parametrization):
    """A user's own constraint, with a kink."""

    needs = "every entry to be at least 0"
    kinks: tuple[float, ...] = (0.0,)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return (-weight).clamp(min=0)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight.clamp(min=0)


def constrained(parametrization: nn.Module, weight: Tensor) -> Any:
    """A linear layer without bias that starts from a copy of ``weight``, with the parametrization."""
    return register_parametrization(linear(weight), "weight", parametrization)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.clone())
    return layer


def stored(layer: Any) -> nn.Parameter:
    x = layer.parametrizations.weight.original
    assert isinstance(x, nn.Parameter)
    return x


def all_finite(dtype: torch.dtype) -> Tensor:
    """Every finite number of a 16-bit dtype."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return bits[bits.isfinite()]


def some_finite(dtype: torch.dtype, count: int = 10**6) -> Tensor:
    """Finite numbers of a 32- or 64-bit dtype by random bit patterns, and its extremes."""
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    limits, info = torch.iinfo(integers), torch.finfo(dtype)
    bits = torch.randint(limits.min, limits.max, (count,), dtype=integers).view(dtype)
    subnormal = torch.tensor(1, dtype=integers).view(dtype).item()
    ends = torch.tensor([0.0, -0.0, info.min, info.max, info.tiny, -info.tiny, subnormal, -subnormal], dtype=dtype)
    edges = torch.linspace(-800, 800, 100_001, dtype=dtype)
    return torch.cat([bits[bits.isfinite()], ends, edges])


def every_number(dtype: torch.dtype) -> Tensor:
    return all_finite(dtype) if dtype.itemsize == 2 else some_finite(dtype)


PRODUCTS: dict[str, Callable[[], Parametrization]] = {
    "Diagonal": lambda: Diagonal(product="elementwise"),
    "ZeroDiagonal": lambda: ZeroDiagonal(product="replaced-diagonal"),
    "NegExpDiagonal": lambda: NegExpDiagonal(product="replaced-diagonal"),
    "MaskedSparse": lambda: MaskedSparse(masks.random(density=0.3), product="csr"),
    "MaskedSparse-CSR": lambda: MaskedSparse(masks.random(density=0.3), product="csr"),
    "MaskedSparse-strips": lambda: MaskedSparse(cheaply_in_strips, product="strips"),
    "MaskedSparse-blocks": lambda: MaskedSparse(equal_blocks, product="strips"),
}


def cheaply_in_strips(weight: Tensor) -> Tensor:
    """A band with empty rows and some holes: several strips, full, partly full and empty."""
    mask = torch.ones(weight.shape).tril(1).triu(-2).bool()
    mask[1::7], mask[2::5, ::2] = False, False
    return mask


def equal_blocks(weight: Tensor) -> Tensor:
    """Two blocks if both sides are even, else one."""
    blocks = 2 if weight.shape[0] % 2 == weight.shape[1] % 2 == 0 else 1
    rows, columns = (torch.arange(size) * blocks // max(size, 1) for size in weight.shape)
    return rows[:, None] == columns


def parts_of(held: object) -> Iterator[object]:
    """The parts of a mask's form, recursively."""
    yield held
    parts: tuple[object, ...] = held if isinstance(held, tuple) else ()
    if dataclasses.is_dataclass(held):
        parts = tuple(getattr(held, field.name) for field in dataclasses.fields(held))
    for part in parts:
        yield from parts_of(part)


def tensors_of(held: object) -> list[Tensor]:
    return [part for part in parts_of(held) if isinstance(part, Tensor)]


every = pytest.mark.parametrize("make", PRODUCTS.values(), ids=PRODUCTS)


of_the_compiler = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated",
    "ignore:The .grad attribute of a Tensor",
    "ignore:`torch._prims_common.check` is deprecated",
)


INPUTS = torch.linspace(-1, 1, 12).view(2, 6)


def fused(make: Callable[[], nn.Module], columns: int = 6, rows: int = 4) -> Any:
    return fuse(register_parametrization(nn.Linear(columns, rows), "weight", make()))


def dense_output(layer: Any, inputs: Tensor = INPUTS) -> Tensor:
    return F.linear(inputs, layer.weight, layer.bias)


class Doubled(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Counter:
    """A compiler that compiles nothing and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:  # noqa: ARG002
        self.graphs += 1
        return graph.forward
