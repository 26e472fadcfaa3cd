"""The claims in the README's table: other ways to constrain a weight, and this library."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from parametrizations import MaskedSparse, bake, register, summary

N = 64
ROOT = Path(__file__).resolve().parent.parent


class Masked(nn.Module):
    """A mask as a parametrization in the style of PyTorch's tutorial: only the product."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return x * self.mask


class CountedMaskedSparse(MaskedSparse):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class MultiplyByHand(nn.Linear):
    """``weight * mask`` in the layer's own forward."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(N, N)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.mask, self.bias)


@pytest.fixture
def mask() -> Tensor:
    return torch.rand(N, N) < 0.1


@pytest.fixture
def plain() -> nn.Linear:
    return nn.Linear(N, N)


@pytest.fixture
def by_hand(mask: Tensor) -> MultiplyByHand:
    return MultiplyByHand(mask)


@pytest.fixture
def pruned(mask: Tensor) -> Any:
    return prune.custom_from_mask(nn.Linear(N, N), "weight", mask)  # type: ignore[no-untyped-call]


@pytest.fixture
def alone(mask: Tensor) -> Any:
    return parametrize.register_parametrization(nn.Linear(N, N), "weight", Masked(mask))


@pytest.fixture
def ours(mask: Tensor) -> Any:
    return register(nn.Linear(N, N), {"weight": MaskedSparse(mask)})


def trained_numbers(layer: nn.Module) -> int:
    """The number of trained values, without the bias."""
    return sum(parameter.numel() for parameter in layer.parameters()) - N


def test_the_others_store_and_train_the_whole_weight(
    by_hand: MultiplyByHand, pruned: Any, alone: Any, ours: Any, mask: Tensor
) -> None:
    assert [trained_numbers(layer) for layer in (by_hand, pruned, alone)] == [N * N] * 3
    assert trained_numbers(ours) == int(mask.sum()) < N * N / 5


def test_only_a_plain_parameter_and_this_library_load_a_plain_checkpoint(
    plain: nn.Linear, by_hand: MultiplyByHand, pruned: Any, alone: Any, ours: Any, mask: Tensor
) -> None:
    state = plain.state_dict()
    by_hand.load_state_dict(state)
    for layer in (pruned, alone):
        with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: .*weight"):
            layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="MaskedSparse needs every entry outside the mask to be 0"):
        ours.load_state_dict(state)
    ours.load_state_dict(state | {"weight": plain.weight.detach() * mask})
    assert torch.equal(ours.weight, plain.weight * mask)


def test_the_checkpoint_of_a_product_by_hand_is_not_the_weight(by_hand: MultiplyByHand, mask: Tensor) -> None:
    assert by_hand.state_dict()["weight"][~mask].abs().max() > 0


def test_a_pruned_layer_that_has_run_is_not_copied(pruned: Any) -> None:
    pruned(torch.ones(N))
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(pruned)


def test_only_here_removing_a_constraint_from_a_copy_keeps_the_original(alone: Any, ours: Any) -> None:
    parametrize.remove_parametrizations(copy.deepcopy(alone), "weight")
    with pytest.raises(AttributeError, match="has no attribute 'weight'"):
        alone(torch.ones(N))
    before = ours(torch.ones(N))
    plain_copy = bake(ours)
    assert type(plain_copy) is nn.Linear
    torch.testing.assert_close(plain_copy(torch.ones(N)), before)
    assert torch.equal(ours(torch.ones(N)), before)


def test_a_weight_outside_is_lost_or_unsupported_except_here(pruned: Any, alone: Any, ours: Any) -> None:
    outside = torch.ones(N, N)
    with pytest.raises(RuntimeError, match="does not implement right_inverse"):
        alone.weight = outside
    with torch.no_grad():
        pruned.weight_orig.copy_(outside)
    pruned(torch.ones(N))
    assert not torch.equal(pruned.weight, outside)
    with pytest.raises(ValueError, match="MaskedSparse needs every entry outside the mask to be 0"):
        ours.weight = outside


def test_a_hidden_entry_that_is_infinite_makes_the_product_by_hand_not_a_number(
    by_hand: MultiplyByHand, pruned: Any, alone: Any, mask: Tensor
) -> None:
    row, column = (~mask).nonzero()[0].tolist()
    for hidden in (by_hand.weight, pruned.weight_orig, alone.parametrizations.weight.original):
        with torch.no_grad():
            hidden[row, column] = torch.inf
    assert all(bool(layer(torch.ones(N)).isnan().any()) for layer in (by_hand, pruned, alone))


def test_a_loop_over_time_materialises_the_weight_once_only_in_the_cache(mask: Tensor, alone: Any) -> None:
    fused: Any = register(nn.Linear(N, N), {"weight": CountedMaskedSparse(mask)})
    for layer in (alone, fused):
        counted = layer.parametrizations.weight[0]
        counted.calls = 0
        with parametrize.cached():
            for _ in range(10):
                layer(torch.ones(N))
        assert counted.calls == 1
        for _ in range(10):
            layer(torch.ones(N))
        assert counted.calls == 11


def test_pruning_builds_the_weight_at_every_call(pruned: Any) -> None:
    built = []
    for _ in range(3):
        pruned(torch.ones(N))
        built.append(pruned.weight)
    assert len({id(weight) for weight in built}) == 3


def test_this_library_keeps_a_trained_weight_bit_for_bit(plain: nn.Linear, mask: Tensor) -> None:
    trained = plain.weight.detach().clone()
    register(plain, {"weight": MaskedSparse(mask)})
    assert torch.equal(plain.weight, trained * mask)
    assert summary(plain).rows[0].stored == int(mask.sum())


MASKED = "Ways to write a mask"
TIMES = {  # the row of the README: the first cells of its row in benchmarks/results.md
    "time of a step, 4096 x 4096, 1 % kept": ["MaskedSparse, 1 %", "4096", "128"],
    "the same, 10 % kept": ["MaskedSparse, 10 %", "4096", "128"],
    "the same, 50 % kept": ["MaskedSparse, 50 %", "4096", "128"],
    "the same, 256 x 256, 10 % kept": ["MaskedSparse, 10 %", "256", "32"],
}
WAYS = ("weight * mask", "prune", "ours")


def cells(line: str) -> list[str]:
    return [cell.strip(" *") for cell in line.strip().strip("|").split("|")]


def measured(title: str, wanted: list[str]) -> dict[str, str]:
    """A row of the benchmark report, from the table below a heading, by the names of its columns."""
    rest = (ROOT / "benchmarks/results.md").read_text().split(f"# {title}\n")[1]
    header, _, *rows = (cells(line) for line in rest.split("\n#")[0].splitlines() if line.startswith("|"))
    [row] = [row for row in rows if row[: len(wanted)] == wanted]
    return dict(zip(header, row, strict=True))


@pytest.mark.parametrize("row", TIMES)
def test_the_readme_has_the_times_of_the_benchmarks(row: str) -> None:
    times = measured(MASKED, TIMES[row])
    [shown] = [line for line in map(cells, (ROOT / "README.md").read_text().splitlines()) if line[0] == row]
    assert shown[1:] == [times[way] for way in WAYS]


def test_claims_about_large_layers_match_the_benchmarks() -> None:
    guide = (ROOT / "docs/guides/sparse_training.md").read_text()
    few, some, many = (
        measured(MASKED, [f"MaskedSparse, {kept}", "4096", "128"])["ours"] for kept in ("1 %", "10 %", "50 %")
    )
    assert f"{few} of `nn.Linear`'s time with 1 % kept, {some} with 10 %, and\n{many} with 50 %" in guide


class TestGeotorch:
    geotorch: Any

    @pytest.fixture(autouse=True)
    def _geotorch(self) -> None:
        self.geotorch = pytest.importorskip("geotorch", reason="comes with the extra `test`")

    def test_it_stores_whole_matrices_under_other_names(self, plain: nn.Linear) -> None:
        state = plain.state_dict()
        self.geotorch.symmetric(plain, "weight")
        assert trained_numbers(plain) == N * N
        with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
            plain.load_state_dict(state)

    def test_it_draws_a_new_weight_where_a_member_is(self, plain: nn.Linear) -> None:
        nn.init.orthogonal_(plain.weight)
        member = plain.weight.detach().clone()
        self.geotorch.orthogonal(plain, "weight")
        assert (plain.weight - member).abs().max() > 0.1

    def test_it_refuses_a_weight_outside_a_manifold_and_assigns_no_symmetric_one(self, plain: nn.Linear) -> None:
        outside = torch.arange(float(N * N)).view(N, N)
        self.geotorch.orthogonal(plain, "weight")
        with pytest.raises(ValueError, match="Tensor not contained in Stiefel"):
            plain.weight = outside
        symmetric = nn.Linear(N, N)
        self.geotorch.symmetric(symmetric, "weight")
        with pytest.raises(RuntimeError, match="does not implement right_inverse"):
            symmetric.weight = outside

    def test_taking_it_off_a_copy_breaks_the_original(self, plain: nn.Linear) -> None:
        self.geotorch.symmetric(plain, "weight")
        parametrize.remove_parametrizations(copy.deepcopy(plain), "weight")
        with pytest.raises(AttributeError, match="has no attribute 'weight'"):
            plain(torch.ones(N))
