"""The products of a mask: their values, the choice between them, and the memory of an index."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from parametrizations import MaskedSparse, explain, masks, register
from parametrizations.typing import Product
from tests.layers import INPUTS, cheaply_in_strips, dense_output, equal_blocks, fused, tensors_of
from tests.operations import SCATTERS, operations
from tests.thresholds import lower


@st.composite
def some_masks(draw: st.DrawFn, rows: int = 12) -> Tensor:
    shape = draw(st.integers(1, rows)), draw(st.integers(1, 12))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.rand(shape, generator=generator) < density
    return mask.tril(draw(st.integers(-2, 12))).triu(draw(st.integers(-12, 2)))


def masked(mask: Tensor, product: Product = "strips", **kind: Any) -> Any:
    layer = nn.Linear(mask.shape[1], mask.shape[0], **kind)
    return register(layer, {"weight": MaskedSparse(mask, product=product)})


def strips_of(mask: Tensor) -> tuple[int, int]:
    """The number of strips of a mask, and of the entries that they multiply, as `explain` says."""
    why = explain(masked(mask)).why
    found = re.fullmatch(r"(\d+) dense strips? over ([\d.]+) % of the weight", why)
    assert found is not None, why
    return int(found[1]), round(float(found[2]) / 100 * mask.numel())


def around(mask: Tensor) -> int:
    """The number of entries of one strip around a mask."""
    columns = mask.any(0).nonzero().flatten().tolist()
    return len(mask) * (columns[-1] + 1 - columns[0]) if columns else 0


@settings(max_examples=50)
@given(some_masks(rows=5), st.sampled_from([0, 1, 4]))
def test_no_other_strips_cost_less(mask: Tensor, cost: int) -> None:
    rows = range(1, mask.shape[0])
    every_way = itertools.chain.from_iterable(itertools.combinations(rows, count) for count in range(len(rows) + 1))
    costs = [
        sum(around(mask[start:end]) + cost for start, end in itertools.pairwise((0, *cuts, len(mask))))
        for cuts in every_way
    ]
    with pytest.MonkeyPatch.context() as patch:
        lower(patch, strip_cost=cost)
        if "block" not in explain(masked(mask)).why:
            count, area = strips_of(mask)  # exact, since fewer than 100 entries have different percentages
            assert area + cost * count == min(costs)


def buffers(mask: Tensor) -> list[int]:
    """The sizes of the buffers that a product fills with entries and zeros."""
    layer = masked(mask)
    return [size for (size,) in operations(lambda: layer(torch.ones(mask.shape[1])), *SCATTERS)]


def test_a_tall_mask_is_cut_where_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, strip_cost=4, strip_buffer=1)
    mask = torch.zeros(1000, 4, dtype=torch.bool)
    mask[:7, :2] = mask[7:501, :3] = mask[501:, 1:3] = True
    mask[[3, 30, 700], 1] = False
    assert buffers(mask) == [7 * 2, 494 * 3, 499 * 2]


def test_there_are_no_more_strips_than_groups_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, strip_cost=1)
    count, area = strips_of(torch.ones(300, 300).tril().bool())
    assert 64 < count <= 128
    assert area <= 0.51 * 300 * 300


@given(
    some_masks(),
    st.sampled_from(["dense", "strips", "csr"]),
    st.sampled_from([1, 10, 1000]),
    st.sampled_from([1, 3, 128]),
    st.booleans(),
)
@example(torch.tensor([[True], [False], [False], [True]]), "strips", 1, 128, True)
@example(torch.eye(6, dtype=torch.bool), "strips", 10, 128, True)
def test_every_form_is_the_matrix(mask: Tensor, product: Product, buffer: int, groups: int, many: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lower(patch, strip_cost=1, strip_buffer=buffer, strip_groups=groups, index_copy=0 if many else 1000)
        layer = masked(mask, product, dtype=torch.float64)
        assert explain(layer).product == product
        x = layer.parametrizations.weight.original
        with torch.no_grad():
            x.normal_()
        weight = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, x)
        input = torch.randn(3, mask.shape[1]).double().requires_grad_()
        grad = torch.randn(3, mask.shape[0]).double()
        output, expected = layer(input), input @ weight.mT + layer.bias
        torch.testing.assert_close(layer.weight, weight)
        torch.testing.assert_close(output, expected)
        got, wanted = (torch.autograd.grad(one, (input, x), grad) for one in (output, expected))
        torch.testing.assert_close(got, wanted)
        layer.weight = 2 * weight.detach()
        assert torch.equal(x, 2 * weight[mask])


def test_a_buffer_of_strips_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, strip_cost=0)
    mask = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]).bool()
    assert buffers(mask) == [1 + 1 + 3 + 4]
    lower(monkeypatch, strip_buffer=6)
    assert buffers(mask) == [1 + 1 + 3, 4]


def test_entries_that_fill_their_strips_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, strip_cost=1, strip_buffer=4)
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]).bool()
    assert strips_of(mask) == (2, 8)
    assert buffers(mask) == [4]


def band_with_holes(size: int, width: int) -> Tensor:
    mask = torch.ones(size, size, dtype=torch.bool).triu(-width).tril(width)
    mask[::4, ::3] = False
    return mask


def shuffled(mask: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randperm(size, generator=generator) for size in mask.shape)
    return mask[rows][:, columns]


KEPT: dict[str, Callable[[], Tensor]] = {
    "few": lambda: masks.random(density=0.01)(torch.empty(1024, 1024)),
    "half": lambda: masks.random(density=0.5)(torch.empty(1024, 1024)),
    "small": lambda: masks.random(density=0.01)(torch.empty(64, 64)),
    "blocks": lambda: masks.block_diagonal(8)(torch.empty(1024, 1024)),
    "all": lambda: torch.ones(1024, 1024, dtype=torch.bool),
    "band": lambda: band_with_holes(4096, 200),
    "shuffled blocks": lambda: shuffled(masks.block_diagonal(64)(torch.empty(1024, 1024))),
}


@pytest.mark.parametrize(
    ("mask", "product", "taken", "why"),
    [
        ("few", "auto", "csr", "1 % kept: only these are multiplied"),
        ("blocks", "auto", "strips", "8 dense blocks in one batched product"),
        ("half", "auto", "dense", "50 % kept: dense is faster"),
        ("all", "auto", "dense", "100 % kept: dense is faster"),
        ("small", "auto", "dense", "64 x 64: too small for CSR"),
        ("band", "auto", "strips", r"\d\d dense strips over \d\d % of the weight"),
        ("shuffled blocks", "auto", "csr", "1.6 % kept: only these are multiplied"),
        ("few", "strips", "strips", r"\d+ dense strips? over \d+ % of the weight"),
        ("blocks", "strips", "strips", "8 dense blocks in one batched product"),
        ("half", "csr", "csr", "50 % kept: only these are multiplied"),
        ("few", "dense", "dense", "product='dense' is set"),
    ],
)
def test_the_product_is_the_cheapest_or_the_one_asked_for(mask: str, product: Product, taken: str, why: str) -> None:
    found = explain(masked(KEPT[mask](), product))
    assert found.product == taken
    assert re.fullmatch(why, found.why)


@pytest.mark.parametrize("columns", [2**15, 2**15 + 1])
def test_column_indices_of_more_than_two_bytes_are_sorted(columns: int) -> None:
    mask = torch.zeros(2, columns, dtype=torch.bool)
    mask[[0, 0, 1, 1], [1, columns - 1, 0, columns - 1]] = True
    layer = masked(mask, "csr")
    input = torch.randn(3, columns, requires_grad=True)
    gradients = [torch.autograd.grad(output.sum(), input)[0] for output in (layer(input), dense_output(layer, input))]
    torch.testing.assert_close(*gradients)


FORMS: dict[str, tuple[Any, Product]] = {
    "dense": (masks.random(density=0.3), "dense"),
    "csr": (masks.random(density=0.3), "csr"),
    "strips": (cheaply_in_strips, "strips"),
    "triangle": (masks.lower_triangular(), "strips"),
    "blocks": (equal_blocks, "strips"),
}
every = pytest.mark.parametrize(("mask", "product"), FORMS.values(), ids=FORMS)


@every
def test_an_index_takes_at_most_12_bytes_a_number_and_some_for_rows_and_columns(mask: Any, product: Product) -> None:
    parametrization = fused(lambda: MaskedSparse(mask, product=product), 200, 300).parametrizations.weight[0]
    taken = {tensor.data_ptr(): tensor.nbytes for held in vars(parametrization).values() for tensor in tensors_of(held)}
    assert 0 <= sum(taken.values()) <= 12 * parametrization.positions.numel() + 16 * (200 + 300) + 100
    if mask is equal_blocks:
        assert sum(taken.values()) <= 8 * 200


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records each operation and runs it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    @override
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.names.add(str(function))
        return function(*arguments, **(named or {}))


@every
def test_a_form_gives_the_same_under_a_dispatch_mode(
    mask: Any, product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower(monkeypatch, strip_cost=0, strip_buffer=1)  # several strips, full, partly full and empty, each in a buffer
    layer = fused(lambda: MaskedSparse(mask, product=product))
    inputs = INPUTS.clone().requires_grad_()

    def outcome() -> list[Tensor]:
        output = layer(inputs)
        return [output, *torch.autograd.grad(output.square().sum(), [inputs, *layer.parameters()])]

    expected = outcome()
    with Seen() as seen:
        torch.testing.assert_close(outcome(), expected)
    # Compilers cannot write into a part of a tensor.
    assert not [name for name in seen.names if name.endswith(".out")]


@every
def test_a_form_is_copied_sent_moved_and_loaded(mask: Any, product: Product) -> None:
    layer = fused(lambda: MaskedSparse(mask, product=product))
    name, expected = explain(layer).product, layer(INPUTS)
    twin = copy.deepcopy(layer)
    state = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        pickle.dumps(layer)
    sent = pickle.loads(pickle.dumps(layer.parametrizations.weight[0]))
    assert torch.equal(sent.mask, layer.parametrizations.weight[0].mask)
    moved = twin.to("meta")
    assert moved(INPUTS.to("meta")).is_meta
    moved.to_empty(device="cpu").load_state_dict(state)
    assert explain(moved).product == name
    torch.testing.assert_close(moved(INPUTS), expected)
    with torch.device("meta"):
        made = fused(lambda: MaskedSparse(masks.random(density=0.5), product=product))
    made.to_empty(device="cpu").load_state_dict(state)
    assert explain(made).product == name
    torch.testing.assert_close(made(INPUTS), expected)
    torch.testing.assert_close(made(INPUTS), dense_output(made))


def test_a_checkpoint_of_another_mask_changes_the_form() -> None:
    layer = fused(lambda: MaskedSparse(masks.block_diagonal(2), product="strips"), 4, 4)
    other = fused(lambda: MaskedSparse(masks.lower_triangular(), product="strips"), 4, 4)
    assert explain(layer).why == "2 dense blocks in one batched product"
    layer.load_state_dict(other.state_dict())
    assert explain(layer).why == "1 dense strip over 100 % of the weight"
    inputs = torch.randn(3, 4)
    assert torch.equal(layer(inputs), other(inputs))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_non_finite_input_reaches_the_outputs_of_its_strip_or_block(value: float) -> None:
    inputs = torch.ones(2, 4)
    inputs[0, 3] = value
    blocks: nn.Module = fused(lambda: MaskedSparse(masks.block_diagonal(2), product="strips"), 4, 4)
    assert blocks(inputs).isfinite().tolist() == [[True, True, False, False], [True] * 4]
    strip: nn.Module = fused(lambda: MaskedSparse(masks.lower_triangular(), product="strips"), 4, 4)
    assert explain(strip).why == "1 dense strip over 100 % of the weight"
    assert strip(inputs).isfinite().tolist() == [[False] * 4, [True] * 4]


@pytest.mark.parametrize("product", ["csr", "strips"])
def test_a_map_over_no_weights_has_the_shape_of_one(product: Product) -> None:
    layer = masked(torch.ones(4, 6, dtype=torch.bool).tril(1), product)
    inputs, stored = torch.ones(3, 6), layer.parametrizations.weight.original

    def call(x: Tensor) -> Any:
        return torch.func.functional_call(layer, {"parametrizations.weight.original": x}, (inputs,))

    for count in (0, 2):
        assert torch.func.vmap(call)(torch.zeros(count, stored.numel())).shape == (count, 3, 4)


def test_gradients_for_each_sample_of_many_values_are_those_of_the_mask() -> None:
    mask = torch.rand(96, 96, generator=torch.Generator().manual_seed(0)) < 0.6
    layer, inputs = masked(mask, "dense"), torch.randn(3, 96)
    assert mask.sum() > 2**12, "from this number on, the values are copied to their places by another operator"

    def loss(x: Tensor, input: Tensor) -> Any:
        return torch.func.functional_call(layer, {"parametrizations.weight.original": x}, (input,)).square().sum()

    stored = layer.parametrizations.weight.original.detach()
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(stored, inputs)
    outer = 2 * layer(inputs).detach()[:, :, None] * inputs[:, None]
    torch.testing.assert_close(found, outer[:, mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_small", [True, False])
def test_a_jvp_of_a_small_layer_takes_the_dense_weight(is_small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_small:
        lower(monkeypatch, dense_jvp=23)
    layer, inputs = masked(torch.ones(4, 6, dtype=torch.bool).tril(1), "csr"), torch.randn(3, 6)

    def tangent() -> Tensor:
        found: Any = torch.func.jvp(layer, (inputs,), (torch.ones(3, 6),))
        return torch.as_tensor(found[1])

    torch.testing.assert_close(tangent(), torch.ones(3, 6) @ layer.weight.mT)
    assert bool(operations(tangent, *SCATTERS)) == is_small
