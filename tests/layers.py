"""Short ways to the layers that the tests look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization


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
