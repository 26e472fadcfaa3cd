from __future__ import annotations

import copy
import functools
import math
import pickle
from collections.abc import Callable
from typing import Any, cast

import numpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from parametrizations import MaskedSparse, masks, register, remask
from parametrizations.masks import Kept, MaskRule
from parametrizations.masks import moving as moving_rules
from parametrizations.masks import values as value_rules
from parametrizations.masks.chance import merged

pruning: Any = prune  # without types
SIZES = st.integers(1, 12)
DENSITIES = st.floats(0.01, 1.0)


def mask_of(rule: MaskRule, rows: int, columns: int) -> Tensor:
    return rule(torch.randn(rows, columns))


@pytest.mark.parametrize("rows", range(1, 13))
@pytest.mark.parametrize("columns", [1, 2, 5, 9, 10])
def test_every_rule_rounds_a_density_in_the_same_way(rows: int, columns: int) -> None:
    weight, entries = torch.randn(rows, columns), rows * columns
    kept = Kept("weight", weight.shape, weight.flatten(), torch.arange(entries))
    for density in [step / 40 for step in range(1, 41)]:
        rules = [rule(density=density) for rule in (masks.random, masks.magnitude, masks.erdos_renyi)]
        rules.append(masks.global_magnitude(density=density))
        counts = {int(rule(weight).sum()) for rule in rules}
        move: Any = rules[1].move
        counts.add(int(move(kept).numel()))
        assert counts == {round(density * entries)}


@given(SIZES, SIZES, DENSITIES)
def test_a_density_keeps_an_exact_number(rows: int, columns: int, density: float) -> None:
    for rule in (masks.random(density=density), masks.magnitude(density=density)):
        mask = mask_of(rule, rows, columns)
        assert mask.shape == (rows, columns)
        assert int(mask.sum()) == round(density * rows * columns)


@given(SIZES, SIZES, DENSITIES)
def test_magnitude_keeps_the_largest(rows: int, columns: int, density: float) -> None:
    weight = torch.randn(rows, columns)
    mask = masks.magnitude(density=density)(weight)
    if bool(mask.any()) and not bool(mask.all()):
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


@given(SIZES, SIZES, st.integers(-13, 13))
def test_lower_triangular_is_tril(rows: int, columns: int, diagonal: int) -> None:
    expected = torch.ones(rows, columns).tril(diagonal).bool()
    assert torch.equal(mask_of(masks.lower_triangular(diagonal), rows, columns), expected)


def test_lower_triangular_goes_up_to_the_main_diagonal_by_default() -> None:
    assert torch.equal(mask_of(masks.lower_triangular(), 4, 5), torch.ones(4, 5).tril().bool())


@given(SIZES, SIZES, st.integers(0, 13), st.integers(0, 13))
def test_banded_counts_diagonals(rows: int, columns: int, lower: int, upper: int) -> None:
    mask = mask_of(masks.banded(lower, upper), rows, columns)
    i, j = torch.arange(rows)[:, None], torch.arange(columns)
    assert torch.equal(mask, (i - j <= lower) & (j - i <= upper))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_block_diagonal_keeps_groups_apart(blocks: int, rows: int, columns: int) -> None:
    mask = mask_of(masks.block_diagonal(blocks), blocks * rows, blocks * columns)
    i, j = torch.arange(blocks * rows)[:, None] // rows, torch.arange(blocks * columns) // columns
    assert torch.equal(mask, i == j)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_nonzero_finds_the_mask_of_a_pruned_weight(dtype: torch.dtype) -> None:
    layer = nn.Linear(6, 4, dtype=dtype)
    mask = torch.rand(4, 6) < 0.4
    pruning.remove(pruning.custom_from_mask(layer, "weight", mask), "weight")
    weight = layer.weight.detach().clone()
    register(layer, {"weight": MaskedSparse(masks.nonzero())})
    sparse: Any = layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
    assert torch.equal(sparse.mask, mask)
    assert torch.equal(layer.weight, weight)
    with torch.no_grad():
        layer.get_parameter("parametrizations.weight.original")[::2] = 0
    weight = layer.weight.detach()
    remask(layer, {"weight": masks.nonzero()}, optimizer=None)
    assert torch.equal(sparse.mask, weight != 0)
    assert torch.equal(layer.weight, weight)


@given(SIZES, st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_n_of_m_keeps_n_in_every_group(rows: int, groups: int, m: int, n: int) -> None:
    n = min(n, m)
    weight = torch.randn(rows, groups * m)
    mask = masks.n_of_m(n, m)(weight)
    assert bool((mask.view(rows, groups, m).sum(2) == n).all())
    kept = torch.where(mask, weight.abs(), 0).view(rows, groups, m).sum(2)
    best = weight.abs().view(rows, groups, m).topk(n).values.sum(2)
    torch.testing.assert_close(kept, best)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3))))
def test_an_edge_leads_from_its_source_to_its_target(edges: list[tuple[int, int]]) -> None:
    mask = mask_of(masks.from_edges(edges), 4, 5)
    assert {(source, target) for target, source in mask.nonzero().tolist()} == set(edges)
    if edges:
        assert torch.equal(mask, mask_of(masks.from_edges(torch.tensor(edges)), 4, 5))


def test_autoregressive_layers_make_a_triangular_network() -> None:
    order, hidden = torch.arange(1, 6), torch.tensor([1, 2, 3, 4, 1, 2, 3])
    first = mask_of(masks.autoregressive(order, hidden), 7, 5)
    last = mask_of(masks.autoregressive(hidden, order, strict=True), 5, 7)
    reach = last.float() @ first.float()
    assert not bool(reach.triu().any())
    assert bool((reach.tril(-1) > 0).sum() == 10)


@pytest.mark.parametrize(
    "rule",
    [
        masks.random(density=0.5),
        masks.banded(1, 1),
        masks.block_diagonal(2),
        masks.lower_triangular(),
        masks.from_edges([(0, 1)]),
        masks.autoregressive(range(4), range(4)),
    ],
    ids=repr,
)
def test_rules_of_shape_make_a_real_mask_for_meta(rule: MaskRule) -> None:
    mask = rule(torch.empty(4, 4, device="meta"))
    assert mask.device.type == "cpu"
    assert mask.dtype is torch.bool


@pytest.mark.parametrize(
    "rule",
    [masks.magnitude(density=0.5), masks.n_of_m(1, 2), masks.global_magnitude(density=0.5), masks.nonzero()],
    ids=repr,
)
def test_rules_of_values_say_that_meta_has_none(rule: MaskRule) -> None:
    weight = torch.empty(4, 4, device="meta")
    with pytest.raises(ValueError, match=r"needs the values of the weight. Got a weight on the meta device"):
        rule(weight)
    if rule.move is not None:
        with pytest.raises(ValueError, match=r"needs the values of the weight. Got a weight on the meta device"):
            rule.move(Kept.whole(weight))


@pytest.mark.parametrize(
    "rule",
    [
        masks.magnitude(density=0.5),
        masks.n_of_m(1, 2),
        masks.global_magnitude(density=0.5),
        masks.random(density=0.2),
        masks.random(density=0.8),
        masks.block_diagonal(2),
        masks.lower_triangular(),
        masks.autoregressive(range(4), range(4)),
    ],
    ids=repr,
)
def test_another_default_device_changes_no_mask(rule: MaskRule) -> None:
    weight = torch.randn(4, 4)

    def made() -> list[Tensor]:
        torch.manual_seed(0)
        kept = Kept.whole(weight)
        return [rule(weight), kept.places if rule.move is None else rule.move(kept)]

    expected = made()
    with torch.device("meta"):
        got = made()
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_rules_of_values_take_every_dtype(dtype: torch.dtype) -> None:
    weight = torch.tensor([[4.0, 1.0, 2.0, 3.0]]).to(dtype)
    expected = torch.tensor([[True, False, False, True]])
    assert torch.equal(masks.magnitude(density=0.5)(weight), expected)
    assert torch.equal(masks.n_of_m(2, 4)(weight), expected)


def test_copies_share_the_generator_and_go_on_drawing() -> None:
    rule = masks.random(density=0.5, generator=torch.Generator().manual_seed(0))
    first, second = mask_of(copy.deepcopy(rule), 8, 8), mask_of(copy.deepcopy(rule), 8, 8)
    assert not torch.equal(first, second)
    again = masks.random(density=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask_of(again, 8, 8), first)


@pytest.mark.parametrize("density", [0.1, 0.4, 0.6, 0.9])
def test_a_seed_draws_the_same_despite_other_draws(density: float) -> None:
    rules = [masks.random(density=density, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    first = mask_of(rules[0], 20, 20)
    torch.manual_seed(1)
    assert torch.equal(mask_of(rules[1], 20, 20), first)


@pytest.mark.parametrize("rule", [masks.random(density=0.5), masks.banded(1, 0), masks.from_edges([(0, 1)])], ids=repr)
def test_rules_pickle(rule: MaskRule) -> None:
    torch.manual_seed(0)
    expected = rule(torch.ones(4, 4))
    torch.manual_seed(0)
    assert torch.equal(pickle.loads(pickle.dumps(rule))(torch.ones(4, 4)), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.random(density=0.0), r"random needs a density above 0 and at most 1. Got 0.0"),
        (lambda: masks.random(density=1.5), r"random needs a density above 0 and at most 1. Got 1.5"),
        (lambda: masks.magnitude(density=float("nan")), r"magnitude needs a density above 0 and at most 1. Got nan"),
        (lambda: masks.n_of_m(5, 4), r"n_of_m needs 1 <= n <= m. Got n=5, m=4"),
        (lambda: masks.banded(-1, 0), r"banded needs numbers of diagonals of at least 0. Got lower=-1"),
        (lambda: masks.block_diagonal(0), r"block_diagonal needs at least 1 block. Got 0"),
        (
            lambda: masks.from_edges(torch.ones(1, 3).long()),
            r"from_edges needs pairs .* Got .*: torch.int64 of shape \(1, 3\)",
        ),
        (
            lambda: masks.from_edges(torch.tensor([[0.5, 1.0]])),
            r"from_edges needs pairs .* Got Tensor: torch.float32",
        ),
        (
            lambda: masks.from_edges(torch.tensor([0, 1])),
            r"from_edges needs pairs .* Got .*: torch.int64 of shape \(2,\)",
        ),
        (
            lambda: masks.n_of_m(2, 3)(torch.ones(2, 4)),
            r"needs a number of inputs that 3 divides. Got 4 inputs",
        ),
        (lambda: masks.block_diagonal(2)(torch.ones(2, 3)), r"with sides divisible by 2. Got shape \(2, 3\)"),
        (lambda: masks.from_edges([(3, 0)])(torch.ones(2, 3)), r"Got 1 edges outside, the first \(3, 0\)"),
        (lambda: masks.from_edges([(0, 2)])(torch.ones(2, 3)), r"Got 1 edges outside, the first \(0, 2\)"),
        (lambda: masks.from_edges([(0, -1)])(torch.ones(2, 3)), r"Got 1 edges outside, the first \(0, -1\)"),
        (lambda: masks.autoregressive([1], [1])(torch.ones(2, 3)), r"Got 1 output and 1 input degrees"),
    ],
)
def test_bad_rules_say_what_they_need(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (masks.random, [{"density": "0.1"}], "random needs a number for density. Got str"),
        (masks.random, [{"density": torch.tensor(0.5)}], "random needs a number for density. Got Tensor"),
        (masks.random, [{"density": 0.5, "generator": 0}], r"random needs a torch.Generator or None. Got int"),
        (masks.n_of_m, [2.0, 4.0], r"n_of_m needs whole numbers. Got float, float"),
        (masks.banded, [1.5, 1], r"banded needs whole numbers. Got float, int"),
        (masks.block_diagonal, [2.0], r"block_diagonal needs whole numbers. Got float"),
        (masks.from_edges, [[("a", "b")]], r"from_edges needs numbers. Got list: .* Pass e.g. .*numbered from 0"),
        (masks.from_edges, [None], r"from_edges needs numbers. Got NoneType"),
        (masks.autoregressive, [object(), [0]], r"autoregressive needs numbers. Got object"),
    ],
)
def test_arguments_of_other_types_are_refused_at_once(make: Any, arguments: list[Any], message: str) -> None:
    options = arguments.pop() if isinstance(arguments[-1], dict) else {}
    with pytest.raises(TypeError, match=message):
        make(*arguments, **options)


@pytest.mark.parametrize("make", [masks.random, masks.magnitude, masks.global_magnitude, masks.erdos_renyi])
def test_a_density_is_given_by_name(make: Any) -> None:
    with pytest.raises(TypeError, match=r"Got \w+\(0.1\). Write \w+\(density=\.\.\..*is the share to keep"):
        make(0.1)
    with pytest.raises(TypeError, match=r"Got \w+\(\). Write \w+\(density=\.\.\."):
        make()


@pytest.mark.parametrize("degrees", [torch.tensor([1j, 2]), torch.tensor([1.0, torch.nan])])
def test_degrees_without_an_order_are_refused(degrees: Tensor) -> None:
    with pytest.raises(ValueError, match="needs degrees that can be ordered"):
        masks.autoregressive(degrees, [0, 1])


def test_degrees_and_edges_are_copied_and_may_be_arrays() -> None:
    degrees, edges = torch.arange(4), numpy.array([[0, 1], [2, 3]])
    rules = masks.autoregressive(degrees, degrees), masks.from_edges(edges)
    before = [rule(torch.empty(4, 4)) for rule in rules]
    degrees.zero_()
    edges[:] = 0
    assert all(torch.equal(rule(torch.empty(4, 4)), mask) for rule, mask in zip(rules, before, strict=True))


def test_numbers_of_other_libraries_are_numbers() -> None:
    weight, one, half = torch.randn(4, 4), cast(int, np.int64(1)), cast(float, np.float32(0.5))
    assert torch.equal(masks.banded(one, one)(weight), masks.banded(1, 1)(weight))
    assert int(masks.magnitude(density=half)(weight).sum()) == 8
    assert str(masks.random(density=half)) == "random(0.5)"


def kept_of(rows: int, columns: int, count: int, name: str = "weight") -> Kept:
    positions = torch.randperm(rows * columns)[:count].sort().values
    return Kept(name, torch.Size((rows, columns)), torch.randn(count), positions)


def moved(rule: MaskRule, kept: Kept) -> set[int]:
    assert rule.move is not None
    positions = rule.move(kept)
    assert positions.unique().numel() == positions.numel()  # type: ignore[no-untyped-call]
    return set(positions.tolist())


def test_a_rule_that_writes_into_kept_entries_changes_no_weight() -> None:
    values, positions = torch.ones(2), torch.tensor([1, 5])
    kept = Kept("weight", torch.Size((2, 3)), values, positions)
    assert kept.places.tolist() == [1, 5]
    kept.values.zero_()
    kept.places.zero_()
    assert (values.tolist(), positions.tolist()) == ([1, 1], [1, 5])


def test_the_places_of_a_weight_on_meta_are_known() -> None:
    assert Kept.whole(torch.empty(1, 3, device="meta")).places.tolist() == [0, 1, 2]


def test_rules_of_values_keep_no_more_entries_than_there_are() -> None:
    magnitude, spread = masks.magnitude(density=0.25), masks.global_magnitude(density=0.25).spread
    assert magnitude.move is not None
    assert spread is not None
    enough, fewer = kept_of(4, 5, 5), kept_of(4, 5, 4)
    assert moved(magnitude, enough) == set(enough.places.tolist())
    assert len(spread([enough])) == 1
    for choose in (magnitude.move, lambda kept: spread([kept])):
        with pytest.raises(ValueError, match=r"\(0.25\) needs to choose 5 of the kept entries. Got only 4; other"):
            choose(fewer)


def smallest(kept: Kept, count: int) -> set[int]:
    return set(kept.places[kept.values.abs().argsort()[:count]].tolist())


@given(SIZES, SIZES, st.floats(0, 1), st.floats(0, 1))
def test_evolution_drops_the_smallest_and_draws_among_those_that_were_not_kept(
    rows: int, columns: int, density: float, fraction: float
) -> None:
    entries = rows * columns
    kept = kept_of(rows, columns, round(density * entries))
    before, after = set(kept.places.tolist()), moved(masks.evolutionary(fraction), kept)
    moving = min(round(fraction * len(before)), entries - len(before))
    assert len(after) == len(before)
    assert before - after == smallest(kept, moving)
    assert len(after - before) == moving


@given(SIZES, SIZES, st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
def test_rigl_grows_where_the_gradient_is_largest_in_strips_of_any_height(
    rows: int, columns: int, density: float, fraction: float, room: int
) -> None:
    kept = kept_of(rows, columns, round(density * rows * columns))
    gradient = torch.randn(rows, columns)
    whole, moving_rules.ROOM = moving_rules.ROOM, room
    try:
        after = moved(masks.rigl(fraction, {"weight": gradient}), kept)
    finally:
        moving_rules.ROOM = whole
    moving = round(fraction * kept.count)
    staying = set(kept.places.tolist()) - smallest(kept, moving)
    candidates = [place for place in gradient.flatten().abs().argsort(descending=True).tolist() if place not in staying]
    assert after == staying | set(candidates[:moving])


def test_rigl_may_regrow_dropped_entries() -> None:
    kept = Kept("weight", torch.Size((1, 3)), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]))
    gradient = torch.tensor([[3.0, 2.0, 1.0]])
    assert moved(masks.rigl(0.5, {"weight": gradient}), kept) == {0, 1}


@pytest.mark.parametrize("count", [1, 5, 12, 13, 24, 25])
def test_draws_are_uniform_and_distinct(count: int) -> None:
    from parametrizations.masks.chance import drawn

    generator, trials = torch.Generator().manual_seed(0), 2000
    seen = torch.zeros(25)
    for _ in range(trials):
        numbers = drawn(count, 25, generator)
        assert numbers.tolist() == sorted({*numbers.tolist()})
        assert len(numbers) == count
        seen[numbers] += 1
    share = count / 25
    assert (seen / trials - share).abs().max() <= 5 * math.sqrt(share * (1 - share) / trials)


@pytest.mark.parametrize(("count", "below"), [(6, 20), (9, 19), (6, 2**31), (6, 2**33)])
def test_the_numbers_of_a_seed_are_stable(count: int, below: int) -> None:
    from parametrizations.masks.chance import drawn

    generator, other = (torch.Generator().manual_seed(0) for _ in range(2))
    for _ in range(20):
        seen: set[int] = set()
        while len(seen) < count:
            seen |= {*torch.randint(below, (count,), generator=other).tolist()}
        left_out = {*torch.randperm(len(seen), generator=other)[count:].tolist()}
        expected = [number for place, number in enumerate(sorted(seen)) if place not in left_out]
        assert drawn(count, below, generator).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("kind", ["spread", "alike", "two sizes", "extremes", "low bits"])
@pytest.mark.parametrize("chunk", [7, 2**20])
def test_the_largest_are_found(kind: str, dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_rules, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    ends = torch.finfo(dtype)
    values = {
        "spread": torch.randn(1000, generator=generator),
        "alike": -torch.ones(1000),
        "two sizes": torch.randint(2, (1000,), generator=generator).float(),
        "extremes": torch.tensor([ends.max, -ends.tiny, 0.0, -0.0, ends.min]).to(dtype).repeat(200),
        "low bits": 1 + ends.eps * torch.randint(4, (1000,), generator=generator, dtype=torch.float64),
    }[kind].to(dtype)
    parts = torch.split(values, [300, 0, 700])
    for count in (0, 1, 20, 40, 41, 500, 999, 1000):
        chosen = torch.cat(value_rules.largest(parts, count))
        sizes = values.abs()
        assert sizes[chosen].sort().values.tolist() == sizes.sort().values[1000 - count :].tolist()
        if count:  # of equal entries the first are chosen
            equal = chosen[sizes == sizes[chosen].min()].tolist()
            assert equal == sorted(equal, reverse=True)


def test_the_largest_of_tensors_of_several_dtypes_are_found() -> None:
    parts = [torch.tensor([1.0, 3.0]), torch.tensor([2.0, -4.0], dtype=torch.bfloat16)]
    assert [chosen.tolist() for chosen in value_rules.largest(parts, 2)] == [[False, True], [False, True]]


@given(SIZES, SIZES, st.floats(0.01, 1))
def test_magnitude_prunes_kept_entries_as_it_would_the_weight(rows: int, columns: int, density: float) -> None:
    kept = Kept.whole(torch.randn(rows, columns))
    mask = masks.magnitude(density=density)(kept.values.view(rows, columns))
    assert moved(masks.magnitude(density=density), kept) == set(mask.flatten().nonzero().flatten().tolist())


def test_random_redraws_an_exact_number() -> None:
    for density in (0.1, 0.5, 0.9, 1.0):
        assert masks.random(density=density)(torch.empty(7, 9)).sum() == round(density * 63)


SHAPES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5)


@given(SHAPES, st.floats(0.001, 1))
def test_erdos_renyi_keeps_an_exact_number_in_proportion_to_the_sides(
    shapes: list[tuple[int, int]], density: float
) -> None:
    rule = masks.erdos_renyi(density=density)
    assert rule.spread is not None
    weights = [torch.empty(shape, device="meta") for shape in shapes]
    found = [
        int(one(weight).sum()) for one, weight in zip(rule.spread([*map(Kept.whole, weights)]), weights, strict=True)
    ]
    assert sum(found) == round(density * sum(weight.numel() for weight in weights))
    layers = [(count, sum(shape), math.prod(shape)) for count, shape in zip(found, shapes, strict=True)]
    for count, side, size in layers:
        for other, other_side, other_size in layers:
            if count < size:  # not full: each layer has at most its share, up to rounding
                assert other * side <= count * other_side + side + other_side, (other_size, size)


def test_erdos_renyi_is_the_papers() -> None:
    rule = masks.erdos_renyi(density=0.1)
    assert rule.spread is not None
    one, other = (Kept.whole(torch.empty(shape, device="meta")) for shape in ((100, 200), (300, 300)))
    found = [
        int(own(torch.empty(kept.shape)).sum())
        for own, kept in zip(rule.spread([one, other]), (one, other), strict=True)
    ]
    assert found == [round(11_000 * 300 / 900), round(11_000 * 600 / 900)]


@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4), st.floats(0.01, 1))
def test_global_magnitude_has_one_threshold(shapes: list[tuple[int, int]], density: float) -> None:
    rule = masks.global_magnitude(density=density)
    weights = [torch.randn(shape) * (place + 1) for place, shape in enumerate(shapes)]
    assert rule.spread is not None
    made = [own(weight) for own, weight in zip(rule.spread([*map(Kept.whole, weights)]), weights, strict=True)]
    sizes, kept = (
        torch.cat([weight.abs().flatten() for weight in weights]),
        torch.cat([mask.flatten() for mask in made]),
    )
    assert int(kept.sum()) == round(density * sizes.numel())
    if 0 < int(kept.sum()) < kept.numel():
        assert sizes[kept].min() >= sizes[~kept].max()


@pytest.mark.filterwarnings("ignore:.*keeps none of")
def test_rules_for_several_weights_see_all_weights_of_a_call() -> None:
    def model() -> Any:
        torch.manual_seed(0)
        made: Any = nn.Sequential(nn.Linear(20, 40), nn.Linear(40, 40), nn.Linear(40, 5))
        with torch.no_grad():
            made[1].weight.mul_(100)
        return made

    def counts(rules: dict[str, MaskedSparse]) -> list[int]:
        made: Any = register(model(), rules)
        return [layer.parametrizations.weight.original.numel() for layer in made]

    generator = torch.Generator().manual_seed(0)
    rule = masks.erdos_renyi(density=0.2, rule=functools.partial(masks.random, generator=generator))
    assert counts({"*.weight": MaskedSparse(rule)}) == [169, 225, 126]  # of 520, by 60, 80 and 45
    assert counts({"[01].weight": MaskedSparse(rule), "2.weight": MaskedSparse(rule)}) == [169, 225, 126]
    largest = masks.global_magnitude(density=0.5)
    one, two, three = counts({"0.weight": MaskedSparse(largest), "[12].weight": MaskedSparse(largest)})
    assert one + two + three == 1300
    assert two > 1250


def test_a_rule_for_several_weights_that_sees_one_gives_it_all() -> None:
    weight = torch.randn(8, 6)
    assert torch.equal(masks.global_magnitude(density=0.25)(weight), masks.magnitude(density=0.25)(weight))
    assert int(masks.erdos_renyi(density=0.25, rule=masks.magnitude)(weight).sum()) == 12
    assert repr(masks.erdos_renyi(density=0.25, rule=masks.magnitude)) == "erdos_renyi(0.25, magnitude)"


@pytest.mark.parametrize("rule", [masks.evolutionary(0.3), masks.rigl(0.3, {})], ids=repr)
def test_rules_that_move_a_mask_need_one(rule: MaskRule) -> None:
    with pytest.raises(
        ValueError, match=r"\(0.3\) changes an existing mask. Got a weight of shape \(2, 3\) without a mask"
    ):
        rule(torch.ones(2, 3))


def test_schedules_begin_end_and_fall() -> None:
    for schedule, start, end in (
        (masks.cosine(0.3, steps=50), 0.3, 0.0),
        (masks.gradual(0.9, 0.1, steps=50), 0.9, 0.1),
    ):
        values = [schedule(step) for step in range(-2, 60)]
        assert values[0] == values[2] == pytest.approx(start)
        assert values[52] == values[-1] == pytest.approx(end)
        assert values == sorted(values, reverse=True)
    assert masks.cosine(0.3, steps=50)(25) == pytest.approx(0.15)
    assert masks.gradual(1.0, 0.2, steps=10)(5) == pytest.approx(0.2 + 0.8 / 8)
    assert masks.gradual(0.1, 0.4, steps=10)(10) == pytest.approx(0.4)  # it may also rise
    assert [masks.cosine(0.3, steps=1)(step) for step in (0, 1)] == pytest.approx([0.3, 0])


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: masks.evolutionary(1.5), ValueError, r"evolutionary needs a fraction from 0 to 1. Got 1.5"),
        (
            lambda: cast(Any, masks.evolutionary)("1"),
            TypeError,
            "evolutionary needs a number for fraction. Got str",
        ),
        (
            lambda: cast(Any, masks.evolutionary)(0.5, generator=0),
            TypeError,
            r"evolutionary needs a torch.Generator or None. Got int",
        ),
        (lambda: masks.rigl(-0.1, {}), ValueError, r"rigl needs a fraction from 0 to 1. Got -0.1"),
        (
            lambda: cast(Any, masks.rigl)(0.1, torch.ones(2)),
            TypeError,
            r"rigl needs dense gradients by the names .* Got Tensor",
        ),
        (lambda: masks.cosine(2, steps=5), ValueError, r"cosine needs a fraction from 0 to 1. Got 2"),
        (lambda: masks.cosine(0.5, steps=0), ValueError, r"cosine needs at least 1 step. Got 0"),
        (lambda: cast(Any, masks.cosine)(0.5, steps=0.5), TypeError, r"cosine needs whole numbers. Got float"),
        (lambda: masks.gradual(0, 0.5, steps=5), ValueError, r"gradual needs a density above 0 and at most 1. Got 0"),
        (lambda: masks.erdos_renyi(density=0), ValueError, r"erdos_renyi needs a density above 0 and at most 1. Got 0"),
        (
            lambda: cast(Any, masks.erdos_renyi)(density=0.1, rule=0.2),
            TypeError,
            r"function from a density to a mask rule. Got float",
        ),
        (
            lambda: masks.global_magnitude(density=2),
            ValueError,
            r"global_magnitude needs a density above 0 and at most 1",
        ),
    ],
)
def test_bad_arguments_of_rules_that_move_are_refused_at_once(
    make: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("seed", range(20))
def test_two_sorted_tensors_are_merged(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randint(30, (size,), generator=generator).unique() for size in (seed, 20 - seed))  # type: ignore[no-untyped-call]
    assert merged(one, other).tolist() == sorted({*one.tolist(), *other.tolist()})
