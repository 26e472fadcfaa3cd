"""`masks.per_block`: a mask rule for each gate or head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parametrizations import MaskedSparse, masks, register, remask
from parametrizations.masks import MaskRule

RULES: dict[str, MaskRule] = {
    "magnitude": masks.magnitude(density=0.25),
    "random": masks.random(density=0.25),
    "n_of_m": masks.n_of_m(1, 2),
    "banded": masks.banded(1, 0),
    "nonzero": masks.nonzero(),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def weight(*shape: int) -> Tensor:
    return torch.randn(shape) * (torch.arange(torch.Size(shape).numel()).view(shape) % 5 > 0)


@every_rule
def test_each_block_has_the_mask_of_the_rule(rule: MaskRule) -> None:
    whole = weight(12, 8)
    mask = masks.per_block(rule, 3)(whole)
    for block, own in zip(whole.chunk(3), mask.chunk(3), strict=True):
        expected = rule(block)
        assert torch.equal(own, expected) if "random" not in str(rule) else own.sum() == expected.sum()


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (2, 0), (-1, 1)])
def test_axes_name_the_rows(axes: tuple[int, int]) -> None:
    whole = weight(6, 6, 6)
    rule = masks.n_of_m(1, 2)
    expected = masks.per_block(rule, 2, axes=(0, 1))(whole.movedim(axes, (0, 1)))
    assert torch.equal(masks.per_block(rule, 2, axes=axes)(whole).movedim(axes, (0, 1)), expected)


KINDS: dict[str, tuple[Any, Any, str]] = {
    "LSTM": (lambda: nn.LSTM(3, 8), None, "weight_hh_l0"),
    "convolution": (lambda: nn.Conv2d(6, 12, 3), (0, 1), "weight"),
    "transposed convolution": (lambda: nn.ConvTranspose1d(8, 12, 3), (1, 0), "weight"),
}


@pytest.mark.parametrize(("make", "axes", "name"), KINDS.values(), ids=KINDS)
def test_remask_moves_each_block(make: Any, axes: Any, name: str) -> None:
    layer: Any = register(make(), {name: MaskedSparse(masks.per_block(masks.random(density=0.5), 4))})
    out = 0 if axes is None else axes[0]

    def kept() -> list[int]:
        return [int(block.sum()) for block in layer.parametrizations[name][0].mask.chunk(4, out)]

    entries = layer.get_parameter(f"parametrizations.{name}.original").numel() // 2
    assert kept() == [entries // 2] * 4
    before = getattr(layer, name).detach()
    remask(layer, {name: masks.per_block(masks.magnitude(density=0.25), 4)}, optimizer=None)
    assert kept() == [entries // 4] * 4
    for block, old in zip(getattr(layer, name).detach().chunk(4, out), before.chunk(4, out), strict=True):
        assert torch.equal(block.abs().flatten().sort().values, _largest(old, entries // 4))
    remask(layer, {name: masks.per_block(masks.evolutionary(0.5), 4)}, optimizer=None)
    assert kept() == [entries // 4] * 4


def _largest(block: Tensor, count: int) -> Tensor:
    sizes = block.abs().flatten()
    sizes[sizes.topk(sizes.numel() - count, largest=False).indices] = 0
    return sizes.sort().values


def test_nested_blocks_keep_the_axes() -> None:
    rule = masks.per_block(masks.per_block(masks.magnitude(density=0.25), 2), 2, axes=(1, 0))
    layer: Any = register(nn.Linear(8, 8), {"weight": MaskedSparse(masks.random(density=1.0))})
    expected = rule(layer.weight.detach())
    remask(layer, {"weight": rule}, optimizer=None)
    assert torch.equal(layer.parametrizations.weight[0].mask, expected)


def test_what_cannot_be_done_by_block_is_refused() -> None:
    per_block: Any = masks.per_block
    with pytest.raises(TypeError, match=r"needs a mask rule. Got function"):
        per_block(masks.random, 4)
    for rule in (masks.global_magnitude(density=0.1), masks.banded(1, 1, axes=(0, 1))):
        with pytest.raises(ValueError, match=r"a rule for one weight, without axes"):
            per_block(rule, 4)
    with pytest.raises(ValueError, match=r"blocks of at least 1. Got random.* and 0"):
        per_block(masks.random(density=0.1), 0)
    with pytest.raises(ValueError, match=r"rows that 5 blocks divide. Got 12 rows"):
        per_block(masks.random(density=0.1), 5)(torch.ones(12, 8))
    layer = register(nn.Linear(8, 12), {"weight": MaskedSparse(masks.random(density=0.5))})
    with pytest.raises(ValueError, match=r"rows that 5 blocks divide. Got 12 rows"):
        remask(layer, {"weight": per_block(masks.magnitude(density=0.1), 5)}, optimizer=None)
    gradients = {"weight": torch.ones(12, 8)}
    with pytest.raises(ValueError, match=r"rigl cannot be a rule for per_block"):
        remask(layer, {"weight": per_block(masks.rigl(0.3, gradients), 4)}, optimizer=None)


def test_an_empty_weight_has_an_empty_mask() -> None:
    assert masks.per_block(masks.random(density=0.5), 2)(torch.ones(4, 0)).shape == (4, 0)
