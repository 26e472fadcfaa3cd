from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import numpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from parametrizations import masks
from parametrizations.masks import MaskRule

SIZES = st.integers(1, 12)
DENSITIES = st.floats(0.01, 1.0)


def mask_of(rule: MaskRule, rows: int, columns: int) -> Tensor:
    return rule(torch.randn(rows, columns))


@given(SIZES, SIZES, DENSITIES)
def test_a_density_keeps_an_exact_number(rows: int, columns: int, density: float) -> None:
    for rule in (masks.random(density), masks.magnitude(density)):
        mask = mask_of(rule, rows, columns)
        assert mask.shape == (rows, columns)
        assert int(mask.sum()) == round(density * rows * columns)


@given(SIZES, SIZES, DENSITIES)
def test_magnitude_keeps_the_largest(rows: int, columns: int, density: float) -> None:
    weight = torch.randn(rows, columns)
    mask = masks.magnitude(density)(weight)
    if bool(mask.any()) and not bool(mask.all()):
        assert weight[mask].abs().min() >= weight[~mask].abs().max()


@given(SIZES, SIZES, st.integers(-13, 13))
def test_lower_triangular_is_tril(rows: int, columns: int, diagonal: int) -> None:
    expected = torch.ones(rows, columns).tril(diagonal).bool()
    assert torch.equal(mask_of(masks.lower_triangular(diagonal), rows, columns), expected)


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
        masks.random(0.5),
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


@pytest.mark.parametrize("rule", [masks.magnitude(0.5), masks.n_of_m(1, 2)], ids=repr)
def test_rules_of_values_say_that_meta_has_none(rule: MaskRule) -> None:
    with pytest.raises(ValueError, match=r"needs the values of the weight. Got a weight on the meta device"):
        rule(torch.empty(4, 4, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_rules_of_values_take_every_dtype(dtype: torch.dtype) -> None:
    weight = torch.tensor([[4.0, 1.0, 2.0, 3.0]]).to(dtype)
    expected = torch.tensor([[True, False, False, True]])
    assert torch.equal(masks.magnitude(0.5)(weight), expected)
    assert torch.equal(masks.n_of_m(2, 4)(weight), expected)


def test_copies_share_the_generator_and_go_on_drawing() -> None:
    rule = masks.random(0.5, generator=torch.Generator().manual_seed(0))
    first, second = mask_of(copy.deepcopy(rule), 8, 8), mask_of(copy.deepcopy(rule), 8, 8)
    assert not torch.equal(first, second)
    again = masks.random(0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask_of(again, 8, 8), first)


@pytest.mark.parametrize("rule", [masks.random(0.5), masks.banded(1, 0), masks.from_edges([(0, 1)])], ids=repr)
def test_rules_pickle(rule: MaskRule) -> None:
    torch.manual_seed(0)
    expected = rule(torch.ones(4, 4))
    torch.manual_seed(0)
    assert torch.equal(pickle.loads(pickle.dumps(rule))(torch.ones(4, 4)), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.random(0.0), r"random needs a density above 0 and at most 1. Got 0.0"),
        (lambda: masks.random(1.5), r"random needs a density above 0 and at most 1. Got 1.5"),
        (lambda: masks.magnitude(float("nan")), r"magnitude needs a density above 0 and at most 1. Got nan"),
        (lambda: masks.n_of_m(5, 4), r"n_of_m needs 1 <= n <= m. Got n=5, m=4"),
        (lambda: masks.banded(-1, 0), r"banded needs numbers of diagonals that are at least 0. Got lower=-1"),
        (lambda: masks.block_diagonal(0), r"block_diagonal needs at least 1 block. Got 0"),
        (
            lambda: masks.from_edges(torch.ones(1, 3).long()),
            r"from_edges needs pairs .* Got torch.int64 of shape \(1, 3\)",
        ),
        (
            lambda: masks.from_edges(torch.tensor([[0.5, 1.0]])),
            r"from_edges needs pairs .* Got torch.float32",
        ),
        (
            lambda: masks.n_of_m(2, 3)(torch.ones(2, 4)),
            r"needs a number of inputs that 3 divides. Got 4 inputs",
        ),
        (lambda: masks.block_diagonal(2)(torch.ones(2, 3)), r"whose sides 2 divides. Got shape \(2, 3\)"),
        (lambda: masks.from_edges([(3, 0)])(torch.ones(2, 3)), r"Got 1 edges outside, the first \(3, 0\)"),
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
        (masks.random, ["0.1"], r"random needs a density that is a number. Got str"),
        (masks.random, [torch.tensor(0.5)], r"random needs a density that is a number. Got Tensor"),
        (masks.random, [0.5, {"generator": 0}], r"random needs a torch.Generator or None. Got int"),
        (masks.n_of_m, [2.0, 4.0], r"n_of_m needs whole numbers. Got float, float"),
        (masks.banded, [1.5, 1], r"banded needs whole numbers. Got float, int"),
        (masks.block_diagonal, [2.0], r"block_diagonal needs whole numbers. Got float"),
        (masks.from_edges, [[("a", "b")]], r"from_edges needs numbers. Got list: .* Number the units from 0"),
        (masks.from_edges, [None], r"from_edges needs numbers. Got NoneType"),
        (masks.autoregressive, [object(), [0]], r"autoregressive needs numbers. Got object"),
    ],
)
def test_arguments_of_other_types_are_refused_at_once(make: Any, arguments: list[Any], message: str) -> None:
    options = arguments.pop() if isinstance(arguments[-1], dict) else {}
    with pytest.raises(TypeError, match=message):
        make(*arguments, **options)


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
    assert int(masks.magnitude(half)(weight).sum()) == 8
    assert str(masks.random(half)) == "random(0.5)"
