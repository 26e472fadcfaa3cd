"""Forms of a mask: their values, the choice between them, and the memory of an index."""

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

from parametrizations import MaskedSparse, explain, masks
from parametrizations._products import dense, strips
from parametrizations._products.choice import ASKED, OTHER_DEVICE, Explanation, Product, form_of
from parametrizations._products.csr import CSR
from parametrizations._products.form import Dense
from parametrizations._products.strips import Blocks, Strips, Window, area_of, windows
from tests.layers import INPUTS, cheaply_in_strips, dense_output, equal_blocks, fused, tensors_of


@st.composite
def some_masks(draw: st.DrawFn, rows: int = 12) -> Tensor:
    shape = draw(st.integers(1, rows)), draw(st.integers(1, 12))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.rand(shape, generator=generator) < density
    return mask.tril(draw(st.integers(-2, 12))).triu(draw(st.integers(-12, 2)))


def positions_of(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().flatten()


def strips_of(mask: Tensor) -> list[Window]:
    return windows(mask.shape, positions_of(mask))


def cost_of(cover: list[Window]) -> int:
    return area_of(cover) + strips.CALL * len(cover)


def around(mask: Tensor, row: int, end: int) -> Window:
    columns = mask[row:end].any(0).nonzero().flatten().tolist()
    return Window(row, end - row, columns[0], columns[-1] + 1 - columns[0]) if columns else Window(row, end - row, 0, 0)


@given(some_masks(), st.sampled_from([0, 1, 10, 10_000]), st.sampled_from([1, 3, 128]))
def test_strips_cover_every_entry_once_and_cost_no_more_than_one(mask: Tensor, call: int, groups: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "CALL", call)
        patch.setattr(strips, "GROUPS", groups)
        found = strips_of(mask)
        assert cost_of(found) <= cost_of([around(mask, 0, len(mask))])
    covered = torch.zeros(mask.shape, dtype=torch.long)
    for row, rows, column, columns in found:
        covered[row : row + rows, column : column + columns] += 1
    assert bool((covered[mask] == 1).all())
    assert int(covered.max()) <= 1
    assert [strip.row for strip in found] == [0, *itertools.accumulate(strip.rows for strip in found)][:-1]
    assert sum(strip.rows for strip in found) == mask.shape[0]


@settings(max_examples=20)
@given(some_masks(rows=5), st.sampled_from([0, 1, 4]))
def test_no_other_strips_cost_less(mask: Tensor, call: int) -> None:
    rows = range(1, mask.shape[0])
    every_way = itertools.chain.from_iterable(itertools.combinations(rows, count) for count in range(len(rows) + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "CALL", call)
        costs = [
            cost_of([around(mask, *ends) for ends in itertools.pairwise((0, *cuts, len(mask)))]) for cuts in every_way
        ]
        assert cost_of(strips_of(mask)) == min(costs)


def test_a_tall_mask_is_cut_where_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "CALL", 1)
    mask = torch.zeros(1000, 4, dtype=torch.bool)
    mask[:7, :2] = mask[7:501, :3] = mask[501:, 1:3] = True
    assert strips_of(mask) == [Window(0, 7, 0, 2), Window(7, 494, 0, 3), Window(501, 499, 1, 2)]


def test_there_are_no_more_strips_than_groups_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "CALL", 1)
    found = strips_of(torch.ones(300, 300).tril().bool())
    assert 64 < len(found) <= strips.GROUPS
    assert area_of(found) < 0.51 * 300 * 300


@given(some_masks(), st.sampled_from(["dense", "strips", "csr"]), st.sampled_from([1, 10, 1000]), st.booleans())
@example(torch.tensor([[True], [False], [False], [True]]), "strips", 1, True)
@example(torch.eye(6, dtype=torch.bool), "strips", 10, True)
def test_every_form_is_the_matrix(mask: Tensor, product: Product, largest: int, many: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "CALL", 1)
        patch.setattr(strips, "LARGEST", largest)
        patch.setattr(dense, "MANY", 0 if many else 1000)
        positions = positions_of(mask)
        form, explanation = form_of(mask.shape, positions, product)
        assert explanation.product == product
        values = torch.randn(positions.numel(), dtype=torch.float64, requires_grad=True)
        weight = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, values)
        input = torch.randn(3, mask.shape[1]).double().requires_grad_()
        grad = torch.randn(3, mask.shape[0]).double()
        output, expected = form.multiply(form.laid_out(input), values), input @ weight.mT
        assert form.positions.tolist() == positions.tolist()
        assert form.shape == mask.shape
        torch.testing.assert_close(form.dense(values), weight)
        torch.testing.assert_close(form.entries(weight), values)
        torch.testing.assert_close(output, expected)
        got, wanted = (torch.autograd.grad(one, (input, values), grad) for one in (output, expected))
        torch.testing.assert_close(got, wanted)


def test_a_piece_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "LARGEST", 10)
    cover = [Window(row, 2, 0, columns) for row, columns in [(0, 0), (2, 3), (4, 2), (6, 9), (8, 1), (10, 0)]]
    assert strips._grouped(cover) == [cover[:3], cover[3:4], cover[4:]]


def test_entries_that_fill_their_strips_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "LARGEST", 4)
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]).bool()
    form = Strips.of(mask.shape, positions_of(mask), [Window(0, 2, 0, 2), Window(2, 2, 1, 2)])
    values = torch.arange(7.0)
    full, other = form.pieces
    assert full.filled(values[:4]).data_ptr() == values.data_ptr()
    assert other.filled(values[4:]).tolist() == [4, 5, 0, 6]


def test_a_strip_may_have_more_places_than_32_bits_can_count() -> None:
    side, ends = 2**16, [0, 2**32 - 1]
    form = Strips.of(torch.Size((side, side)), torch.tensor(ends), [Window(0, side, 0, side)])
    assert form.pieces[0].places is not None
    assert form.pieces[0].places.tolist() == ends


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
    kept = KEPT[mask]()
    form, found = form_of(kept.shape, positions_of(kept), product)
    assert found.product == taken
    assert re.fullmatch(why, found.why)
    kinds: dict[str, tuple[type, ...]] = {"dense": (Dense,), "csr": (CSR,), "strips": (Strips, Blocks)}
    assert isinstance(form, kinds[taken])


@pytest.mark.parametrize(
    ("product", "expected"), [("auto", OTHER_DEVICE), ("csr", OTHER_DEVICE), ("dense", ASKED)], ids=str
)
def test_on_another_device_there_is_no_search_for_a_cheaper_product(product: Product, expected: Explanation) -> None:
    form, found = form_of(torch.Size((4, 4)), torch.arange(4, device="meta"), product)  # reading a value would fail
    assert (type(form), found) == (Dense, expected)


@pytest.mark.parametrize("columns", [2**15, 2**15 + 1])
def test_column_indices_of_more_than_two_bytes_are_sorted(columns: int) -> None:
    positions = torch.tensor([1, columns - 1, columns, 2 * columns - 1])
    form = CSR.of(torch.Size((2, columns)), positions)
    assert form.order.tolist() == [2, 0, 1, 3]
    assert form.by_columns.columns.tolist() == [1, 0, 0, 1]
    assert form.by_columns.starts[[0, 1, 2, -2, -1]].tolist() == [0, 1, 2, 2, 4]


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
    if product != "dense" and mask is equal_blocks:
        assert isinstance(parametrization._form, Blocks)
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
    monkeypatch.setattr(strips, "CALL", 0)  # several strips, full, partly full and empty
    monkeypatch.setattr(strips, "LARGEST", 1)  # one piece per strip
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
    assert isinstance(layer.parametrizations.weight[0]._form, Blocks)
    layer.load_state_dict(other.state_dict())
    assert isinstance(layer.parametrizations.weight[0]._form, Strips)
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
