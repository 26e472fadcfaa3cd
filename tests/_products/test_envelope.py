"""Strips and orders of a mask's envelope: what they cover, what they cost, and what an index takes in memory."""

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
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from parametrizations import MaskedSparse, explain, masks
from parametrizations._products import arrange, envelope, skyline
from parametrizations._products.arrange import arranged
from parametrizations._products.blocks import Blocks
from parametrizations._products.choice import FORCED, OTHER_DEVICE, Path, Product
from parametrizations._products.csr import Pattern
from parametrizations._products.entries import Entries
from parametrizations._products.envelope import BATCH, Envelope, Window, area_of, batch_for, cost_of, windows
from parametrizations._products.panel import Panel, grouped, in_buffer
from parametrizations._products.skyline import Skyline
from tests.layers import (
    INPUTS,
    cheaply_in_strips,
    dense_output,
    equal_blocks,
    everywhere_in_windows,
    fused,
    shuffled_stairs,
    tensors_of,
)


@st.composite
def some_masks(draw: st.DrawFn, rows: int = 12) -> Tensor:
    shape = draw(st.integers(1, rows)), draw(st.integers(1, 12))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.rand(shape, generator=generator) < density
    return mask.tril(draw(st.integers(-2, 12))).triu(draw(st.integers(-12, 2)))


def envelope_of(mask: Tensor) -> Envelope:
    rows, columns = mask.nonzero().unbind(1)
    return Envelope.of(mask.shape, rows, columns)


@given(some_masks(), st.sampled_from([0, 1, 10, 10_000]), st.sampled_from([1, 3, 128]))
def test_strips_cover_every_entry_once_and_cost_no_more_than_one(mask: Tensor, call: int, groups: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "CALL", call)
        patch.setattr(envelope, "GROUPS", groups)
        found = envelope_of(mask)
        strips = windows(found)
        covered = torch.zeros(mask.shape, dtype=torch.long)
        for row, rows, column, columns in strips:
            covered[row : row + rows, column : column + columns] += 1
        first, last = int(found.first.min()), int(found.last.max())
        one = [Window(0, mask.shape[0], min(first, last), max(last - first, 0))]
        assert cost_of(strips) <= cost_of(one)
    assert bool((covered[mask] == 1).all())
    assert int(covered.max()) <= 1
    assert [strip.row for strip in strips] == [0, *torch.tensor([strip.rows for strip in strips]).cumsum(0)[:-1]]
    assert sum(strip.rows for strip in strips) == mask.shape[0]
    assert found.area <= int(covered.sum())


def at_rows(found: Envelope, ends: tuple[int, ...]) -> list[Window]:
    return [envelope._window(found, start, end) for start, end in itertools.pairwise((0, *ends, found.shape[0]))]


@settings(max_examples=20)
@given(some_masks(rows=5), st.sampled_from([0, 1, 4]))
def test_no_other_strips_cost_less(mask: Tensor, call: int) -> None:
    found, rows = envelope_of(mask), range(1, mask.shape[0])
    every_way = itertools.chain.from_iterable(itertools.combinations(rows, count) for count in range(len(rows) + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "CALL", call)
        assert cost_of(windows(found)) == min(cost_of(at_rows(found, ends)) for ends in every_way)


def test_a_tall_mask_is_cut_where_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "CALL", 1)
    mask = torch.zeros(1000, 4, dtype=torch.bool)
    mask[:7, :2] = mask[7:501, :3] = mask[501:, 1:3] = True
    assert windows(envelope_of(mask)) == [Window(0, 7, 0, 2), Window(7, 494, 0, 3), Window(501, 499, 1, 2)]


def test_many_changes_are_followed_by_no_more_strips_than_there_are_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "CALL", 1)
    strips = windows(envelope_of(torch.ones(300, 300).tril().bool()))
    assert 64 < len(strips) <= envelope.GROUPS
    assert area_of(strips) < 0.51 * 300 * 300


@settings(max_examples=30)
@given(some_masks(), st.sampled_from([0, 7]))
def test_from_their_batch_on_strips_cost_less_than_the_whole_matrix(mask: Tensor, extra: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "CALL", 2)
        strips = windows(envelope_of(mask))
        batch = batch_for(strips, mask.numel(), extra)
    if area_of(strips) == mask.numel():
        assert batch == torch.inf
    else:
        of_strips = batch / BATCH * area_of(strips) + 2 / 2 * len(strips) + extra
        assert of_strips == pytest.approx(batch / BATCH * mask.numel())


@settings(max_examples=30)
@given(some_masks())
def test_sorted_entries_have_the_envelope_that_they_have_in_any_sequence(mask: Tensor) -> None:
    positions = mask.flatten().nonzero().flatten()
    for one, other in zip(Envelope.of_sorted(mask.shape, positions), envelope_of(mask), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@given(
    some_masks(),
    st.sampled_from(["strips", "csr", "structured"]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([1, 10, 1000]),
)
@example(torch.tensor([[True], [False], [False], [True]]), "strips", None, 1)
@example(F.pad(shuffled_stairs(torch.empty(24, 24)), (0, 2)), "strips", None, 1)
def test_every_form_is_the_matrix(mask: Tensor, product: Product, width: int | None, largest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "CALL", 1)
        patch.setattr(skyline, "LARGEST", largest)
        if width is not None:
            everywhere_in_windows(patch, width)
        positions = mask.flatten().nonzero().flatten()
        form = arranged(mask.shape, positions, product).entries
        if form is not None:
            require_the_matrix(form, mask, positions)
        if isinstance(form, Skyline) and form.of_rows is form.of_columns is None:
            areas = [[strip.window.rows * strip.window.columns for strip in panel.strips] for panel in form.panels]
            assert all(sum(areas_of_one) <= max(largest, areas_of_one[0]) for areas_of_one in areas)


def require_the_matrix(form: Entries, mask: Tensor, positions: Tensor) -> None:
    values = torch.randn(positions.numel(), dtype=torch.float64)
    weight = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, values)
    left, right = torch.randn(3, mask.shape[0]).double(), torch.randn(3, mask.shape[1]).double()
    operands = form.operands(values)
    assert form.positions().tolist() == positions.tolist()
    assert (form.count, form.shape) == (positions.numel(), mask.shape)
    torch.testing.assert_close(form.product(form.laid_out(right), values, operands, False), right @ weight.mT)
    torch.testing.assert_close(form.product(form.laid_out(left), values, operands, True), left @ weight)
    torch.testing.assert_close(form.sampled(form.laid_out(left), form.laid_out(right)), (left.mT @ right)[mask])


def test_a_buffer_of_several_strips_has_a_largest_size() -> None:
    strips = [Window(row, 2, 0, columns) for row, columns in [(0, 0), (2, 3), (4, 2), (6, 9), (8, 1), (10, 0)]]
    assert grouped(strips, 10) == [strips[:3], strips[3:4], strips[4:]]
    assert grouped(strips, 1000) == [strips]


@pytest.mark.parametrize(
    ("places", "copied"), [([0, 1, 2, 3], False), ([2, 0, 3, 1], True), ([0, 1, 2], True), ([], True)]
)
def test_values_that_fill_their_strip_in_order_are_not_copied(places: list[int], copied: bool) -> None:
    panel = Panel.of(in_buffer([Window(0, 2, 0, 2)]), 1, torch.tensor(places, dtype=torch.long), rarely=False)
    (part,) = panel.filled(torch.arange(10, 10 + 6))
    assert part.flatten()[places].tolist() == list(range(11, 11 + len(places)))
    assert (panel.spread is not None) == copied


def shuffled(mask: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(size, generator=generator) for size in mask.shape)
    return mask[rows][:, columns]


def made(seed: int) -> Tensor:
    """The mask of MADE, with degrees in no order."""
    generator = torch.Generator().manual_seed(seed)
    degrees = [torch.randint(1, 64, (256,), generator=generator).tolist() for _ in range(2)]
    return masks.autoregressive(*degrees)(torch.empty(256, 256))


@pytest.mark.parametrize("sampled", [256, 40])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda seed: shuffled(torch.ones(256, 256).tril().bool(), seed), 0.6),
        (lambda seed: shuffled(masks.block_diagonal(8)(torch.empty(256, 256)), seed), 0.126),
        (made, 0.65),
    ],
    ids=["triangle", "blocks", "MADE"],
)
def test_sorting_finds_what_was_shuffled(
    make: Callable[[int], Tensor], most: float, seed: int, sampled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelope, "CALL", 16)
    monkeypatch.setattr(arrange, "SAMPLED", sampled)
    mask = make(seed)
    form = arranged(mask.shape, mask.flatten().nonzero().flatten(), "strips").entries
    assert isinstance(form, Skyline)
    assert form.of_rows is not None
    assert form.of_columns is not None
    assert sum(strip.window.rows * strip.window.columns for strip in form.strips) <= most * mask.numel()


def test_rows_out_of_order_are_sorted_and_what_lies_side_by_side_in_them_stays_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first layer of MADE: the inputs have their order, the degrees of the outputs none."""
    monkeypatch.setattr(envelope, "CALL", 16)
    everywhere_in_windows(monkeypatch)
    mask = torch.ones(256, 256).tril().bool()[torch.randperm(256)]
    found = arranged(mask.shape, mask.flatten().nonzero().flatten(), "auto")
    form = found.entries
    assert isinstance(form, Skyline)
    assert form.of_rows is not None
    assert form.of_columns is None
    assert ", its rows sorted" in found.path.why
    assert sum(strip.window.rows * strip.window.columns for strip in form.strips) <= 0.6 * mask.numel()
    assert [panel.spread is not None and panel.spread.runs is not None for panel in form.panels] == [True]
    turned = arranged(mask.mT.shape, mask.mT.flatten().nonzero().flatten(), "auto")
    assert found.least < turned.least / 3  # where the columns are sorted, each value has to be brought to its place


@pytest.mark.parametrize(("fresh", "batch", "used"), [(2**23, 128, True), (0, 128, False), (0, 8, True)])
def test_of_a_weight_whose_memory_is_given_anew_strips_are_taken_for_every_batch(
    fresh: int, batch: int, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelope, "CALL", 16)
    monkeypatch.setattr(arrange, "FRESH", fresh)
    monkeypatch.setattr(arrange, "BATCH", batch)
    mask = shuffled_stairs(torch.empty(256, 256))
    found = arranged(mask.shape, mask.flatten().nonzero().flatten(), "auto")
    assert isinstance(found.entries, Skyline)
    assert (found.least > 0, found.whole is not None) == (used, used)


def test_the_area_in_groups_is_that_of_rows_as_wide_as_their_neighbours() -> None:
    mask = torch.zeros(64, 8, dtype=torch.bool)
    mask[::2, 0], mask[1::2, 7], mask[10:12] = True, True, False
    found = envelope_of(mask)
    assert found.area == 62
    assert found.area_in_groups == 62 // 2 * 2 * 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "EQUAL", 5)  # groups of 13 rows, the last of 12
        assert found.area_in_groups == 5 * 13 * 8
        mask[52:, :7] = False
        assert envelope_of(mask).area_in_groups == 13 * (4 * 8 + 1)


def band_with_holes(size: int, width: int) -> Tensor:
    mask = torch.ones(size, size, dtype=torch.bool).triu(-width).tril(width)
    mask[::4, ::3] = False
    return mask


def without_a_corner() -> Tensor:
    """So many entries that a CSR product is no faster than a dense one, and strips are a little."""
    mask = masks.random(density=0.144)(torch.empty(1024, 1024))
    mask[:512, 960:] = False
    return mask


KEPT: dict[str, Callable[[], Tensor]] = {
    "few": lambda: masks.random(density=0.01)(torch.empty(1024, 1024)),
    "blocks": lambda: masks.block_diagonal(8)(torch.empty(1024, 1024)),
    "all": lambda: torch.ones(1024, 1024, dtype=torch.bool),
    "narrow": lambda: band_with_holes(4096, 200),
    "wide": lambda: band_with_holes(512, 40),
    "without a corner": without_a_corner,
    "shuffled": lambda: shuffled(masks.block_diagonal(8)(torch.empty(256, 2048)), 0),
}


@pytest.mark.parametrize(
    ("mask", "product", "why"),
    [
        ("few", "auto", "the cost follows the kept entries"),
        ("blocks", "auto", "8 dense blocks at once"),
        ("all", "auto", "so many entries are kept, .*"),
        ("narrow", "auto", r"\d\d dense strips over \d\d% of the weight"),
        ("wide", "auto", r"\d dense strips over \d\d% of the weight, from a batch of \d\d on"),
        (
            "shuffled",
            "auto",
            r"\d dense strips over \d\d% of the weight, its rows and columns sorted, from a batch of \d\d on",
        ),
        ("without a corner", "auto", r"2 dense strips over 97% of the weight, from a batch of \d\d on"),
        ("few", "strips", r"\d* dense strips? over \d*% of the weight"),
        ("blocks", "strips", "8 dense blocks at once"),
        ("few", "csr", "the cost follows the kept entries"),
        ("blocks", "csr", "the cost follows the kept entries"),
        ("few", "structured", "the cost follows the kept entries"),
        ("blocks", "structured", "8 dense blocks at once"),
    ],
)
def test_the_way_is_the_cheapest_of_those_that_were_asked_for(mask: str, product: Product, why: str) -> None:
    kept = KEPT[mask]()
    found = arranged(kept.shape, kept.flatten().nonzero().flatten(), product)
    assert re.fullmatch(why, found.path.why)
    assert (found.least > 0) == ("from a batch" in why)
    assert (found.whole is not None) == (found.least > 0 or mask == "all")
    if isinstance(found.entries, Skyline):  # what is written by at each step is not converted then
        (dtype,) = {panel.spread.places.dtype for panel in found.entries.panels if panel.spread is not None}
        assert dtype is (torch.int32 if found.least else torch.long)


@pytest.mark.parametrize(
    ("product", "path"), [("auto", OTHER_DEVICE), ("csr", OTHER_DEVICE), ("dense", FORCED)], ids=str
)
def test_on_another_device_no_cheaper_way_is_looked_for(product: Product, path: Path) -> None:
    found = arranged(torch.Size((4, 4)), torch.arange(4, device="meta"), product)  # to look at it would fail
    assert (found.path, found.entries, found.least) == (path, None, 0)


@pytest.mark.parametrize("turned", [False, True])
def test_values_that_are_brought_to_other_columns_cost(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "CALL", 16)
    mask = torch.ones(256, 256).tril().bool()[torch.randperm(256)]
    mask = mask.mT if turned else mask
    (way,) = arrange._skyline(mask.shape, positions := mask.flatten().nonzero().flatten())
    form = way.build(positions, False)
    assert isinstance(form, Skyline)
    strips = cost_of([strip.window for strip in form.strips])
    assert way.cost == strips + (int(arrange.SORTING * positions.numel()) if turned else 0)


@pytest.mark.parametrize("density", [0.01, 0.1])
def test_of_a_mask_without_structure_only_some_rows_are_looked_at(
    density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []

    def of(shape: torch.Size, rows: Tensor, columns: Tensor) -> Envelope:
        looked_at.append(rows.numel())
        return original(shape, rows, columns)

    original = Envelope.of
    monkeypatch.setattr(Envelope, "of", of)
    monkeypatch.delattr(arrange, "windows")  # nor are strips sought
    mask = torch.rand(2048, 1024, generator=torch.Generator().manual_seed(0)) < density
    assert arranged(mask.shape, mask.flatten().nonzero().flatten(), "auto").path.name == "csr"
    assert 0 < max(looked_at) < mask.sum() / 7  # one row of eight


def test_the_envelope_of_sorted_positions_is_that_of_the_entries() -> None:
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(7, 5, generator=generator) < torch.rand(7, 1, generator=generator) - 0.3
        positions = mask.flatten().nonzero().flatten()
        for found, expected in zip(Envelope.of_sorted(mask.shape, positions.int()), envelope_of(mask), strict=True):
            assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


@pytest.mark.parametrize("columns", [2**15, 2**15 + 1])
def test_columns_whose_numbers_have_more_than_two_bytes_are_sorted_too(columns: int) -> None:
    positions = torch.tensor([1, columns - 1, columns, 2 * columns - 1])
    pattern = Pattern.of(torch.Size((2, columns)), positions)
    assert pattern.order.tolist() == [2, 0, 1, 3]
    assert pattern.by_columns.columns.tolist() == [1, 0, 0, 1]
    assert pattern.by_columns.starts[[0, 1, 2, -2, -1]].tolist() == [0, 1, 2, 2, 4]


FORMS: dict[str, tuple[Any, Product]] = {
    "dense": (masks.random(density=0.3), "dense"),
    "csr": (masks.random(density=0.3), "csr"),
    "strips": (cheaply_in_strips, "strips"),
    "sorted": (shuffled_stairs, "strips"),
    "blocks": (equal_blocks, "strips"),
}
every = pytest.mark.parametrize(("mask", "product"), FORMS.values(), ids=FORMS)


@every
def test_an_index_takes_at_most_12_bytes_a_number_beside_those_of_rows_and_columns(mask: Any, product: Product) -> None:
    parametrization = fused(lambda: MaskedSparse(mask, product=product), 200, 300).parametrizations.weight[0]
    taken = {tensor.data_ptr(): tensor.nbytes for held in vars(parametrization).values() for tensor in tensors_of(held)}
    assert 0 <= sum(taken.values()) <= 12 * parametrization.positions.numel() + 16 * (200 + 300) + 100
    if product != "dense" and mask is equal_blocks:
        assert isinstance(parametrization._form, Blocks)
        assert sum(taken.values()) <= 8 * 200


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation, and does it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    @override
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.names.add(str(function))
        return function(*arguments, **(named or {}))


@every
def test_a_form_gives_the_same_where_each_operation_is_recorded(
    mask: Any, product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelope, "CALL", 0)  # several strips, full, partly full and empty
    monkeypatch.setattr(skyline, "LARGEST", 1)  # each in a buffer of its own
    layer = fused(lambda: MaskedSparse(mask, product=product))
    inputs = INPUTS.clone().requires_grad_()

    def outcome() -> list[Tensor]:
        output = layer(inputs)
        return [output, *torch.autograd.grad(output.square().sum(), [inputs, *layer.parameters()])]

    expected = outcome()
    with Seen() as seen:
        torch.testing.assert_close(outcome(), expected)
    # A compiler takes no part of a tensor to write into; sums of strips are another matter.
    assert {name for name in seen.names if name.endswith(".out")} <= {"aten.addmm.out"}


@pytest.mark.parametrize("rarely", [False, True])
@pytest.mark.parametrize("mask", [cheaply_in_strips, shuffled_stairs])
def test_strips_take_at_most_12_bytes_an_entry_whether_or_not_small_batches_are_dense(
    mask: Callable[[Tensor], Tensor], rarely: bool
) -> None:
    kept = mask(torch.empty(200, 300))
    found = envelope_of(kept)
    order = envelope.orders(found, *kept.nonzero().unbind(1))[0] if mask is shuffled_stairs else None
    positions = kept.flatten().nonzero().flatten()
    held = positions if rarely else positions.int()  # the dense product writes by them
    form = Skyline.of(kept.shape, held, [Window(0, 200, 0, 300)], order, rarely=rarely)
    taken = sum(tensor.nbytes for tensor in tensors_of(form))
    assert 0 < taken <= 12 * positions.numel() + 16 * (200 + 300)


def test_a_strip_may_have_more_places_than_32_bits_can_count() -> None:
    side, ends = 2**16, [0, 2**32 - 1]
    form = Skyline.of(torch.Size((side, side)), torch.tensor(ends), [Window(0, side, 0, side)], None, rarely=True)
    assert form.panels[0].spread is not None
    assert form.panels[0].spread.places.tolist() == ends


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
        built = fused(lambda: MaskedSparse(masks.random(density=0.5), product=product))
    built.to_empty(device="cpu").load_state_dict(state)
    assert explain(built).product == name
    torch.testing.assert_close(built(INPUTS), expected)
    torch.testing.assert_close(built(INPUTS), dense_output(built))


def test_a_checkpoint_of_another_mask_changes_the_form() -> None:
    layer = fused(lambda: MaskedSparse(masks.block_diagonal(2), product="strips"), 4, 4)
    other = fused(lambda: MaskedSparse(masks.lower_triangular(), product="strips"), 4, 4)
    assert isinstance(layer.parametrizations.weight[0]._form, Blocks)
    layer.load_state_dict(other.state_dict())
    assert isinstance(layer.parametrizations.weight[0]._form, Skyline)
    inputs = torch.randn(3, 4)
    assert torch.equal(layer(inputs), other(inputs))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_reaches_the_outputs_of_its_own_strip_or_block(value: float) -> None:
    inputs = torch.ones(2, 4)
    inputs[0, 3] = value
    blocks: nn.Module = fused(lambda: MaskedSparse(masks.block_diagonal(2), product="strips"), 4, 4)
    assert blocks(inputs).isfinite().tolist() == [[True, True, False, False], [True] * 4]
    strip: nn.Module = fused(lambda: MaskedSparse(masks.lower_triangular(), product="strips"), 4, 4)
    assert explain(strip).why == "1 dense strip over 100% of the weight"
    assert strip(inputs).isfinite().tolist() == [[False] * 4, [True] * 4]
