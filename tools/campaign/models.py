"""Random models: nested, with modules under two names, of several kinds of layers and dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

__all__ = ["Plan", "build", "plans"]

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "complex64": torch.complex64,
}
WIDTHS = st.one_of(st.integers(1, 16), st.integers(0, 64))
LARGE = st.integers(700, 1100)


@dataclass(frozen=True)
class Block:
    """A part of a model; it keeps the number of features."""

    kind: str
    inner: int
    bias: bool


@dataclass(frozen=True)
class Plan:
    """A description of a model that can be printed and shrunk."""

    width: int
    dtype: str
    blocks: tuple[Block, ...]
    seed: int


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.first = layer
        self.second = layer

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(input))
        return output


class Branches(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: nn.Linear(width, width, bias=bias) for name in ("a", "b")})

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.branches["a"](input) - self.branches["b"](input)
        return output


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], width: int, bias: bool) -> None:
        super().__init__()
        self.layer = kind(width, width, bias=bias)  # type: ignore[call-arg, arg-type]

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.layer(input.unsqueeze(0))[0].squeeze(0)
        return output


class Attention(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, bias=bias, batch_first=True)

    @override
    def forward(self, input: Tensor) -> Tensor:
        row = input.unsqueeze(0)
        output: Tensor = self.attention(row, row, row, need_weights=False)[0].squeeze(0)
        return output


class Convolution(nn.Module):
    """A convolution over the features; its channels are averaged."""

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, channels, 3, padding=1, bias=bias)

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.layer(input.unsqueeze(1)).mean(1)
        return output


class Embedded(nn.Module):
    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, width)

    @override
    def forward(self, input: Tensor) -> Tensor:
        places = torch.arange(input.shape[0]) % self.embedding.num_embeddings
        output: Tensor = input + self.embedding(places)
        return output


class Own(nn.Linear):
    """Overrides ``forward``."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return 2 * F.linear(input, self.weight, self.bias)


ANY = ("linear", "pair", "twice", "branches", "nested", "own")
REAL = ("embedding", "recurrent", "gated", "attention", "convolution", "norm", "tanh")
RECURRENT: dict[str, type[nn.RNNBase]] = {"recurrent": nn.RNN, "gated": nn.LSTM}


def _module(block: Block, width: int) -> nn.Module:
    if block.kind in RECURRENT:
        return Recurrent(RECURRENT[block.kind], width, block.bias)
    made: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(width, width, bias=block.bias),
        "pair": lambda: nn.Sequential(nn.Linear(width, block.inner, bias=block.bias), nn.Linear(block.inner, width)),
        "twice": lambda: Twice(nn.Linear(width, width, bias=block.bias)),
        "branches": lambda: Branches(width, block.bias),
        "nested": lambda: nn.Sequential(nn.Sequential(nn.Identity(), nn.Linear(width, width, bias=block.bias))),
        "own": lambda: Own(width, width, bias=block.bias),
        "embedding": lambda: Embedded(max(block.inner, 1), width),
        "attention": lambda: Attention(width, block.bias),
        "convolution": lambda: Convolution(max(block.inner, 1), block.bias),
        "norm": lambda: nn.LayerNorm(width),
        "tanh": lambda: nn.Tanh(),
    }
    return made[block.kind]()


def build(plan: Plan) -> nn.Module:
    torch.default_generator.manual_seed(plan.seed)
    return nn.Sequential(*(_module(block, plan.width) for block in plan.blocks)).to(DTYPES[plan.dtype])


@st.composite
def plans(draw: st.DrawFn, sparing: bool = False) -> Plan:
    """Models of up to four blocks; one in sixty is large enough for strips and sparse products."""
    large = not sparing and draw(st.integers(0, 59)) == 37  # hypothesis prefers the ends of a range
    width = draw(LARGE if large else WIDTHS)
    dtype = draw(st.sampled_from(list(DTYPES)))
    kinds = ANY if dtype == "complex64" or width == 0 or large else ANY + REAL
    block = st.builds(Block, st.sampled_from(kinds), LARGE if large else WIDTHS, st.booleans())
    blocks = draw(st.lists(block, min_size=1, max_size=2 if large else 4))
    if not any(block.kind in ANY for block in blocks):
        blocks = [Block("linear", 0, True), *blocks]
    return Plan(width, dtype, tuple(blocks), draw(st.integers(0, 2**16)))
