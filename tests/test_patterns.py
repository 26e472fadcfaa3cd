"""Masks by positions: every rule against a dense reference, and sparse tensors as masks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import scipy.sparse  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from parametrizations import MaskedSparse, masks, register, remask
from parametrizations.masks import MaskRule

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")

SIDES = (0, 1, 2, 3, 4, 6)
EDGES = torch.tensor([[0, 0], [0, 0], [1, 0], [0, 1]])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def degrees(size: int) -> Tensor:
    return torch.randint(-2, 3, (size,), generator=seeded())


def every_pair(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return torch.arange(rows)[:, None], torch.arange(columns)


def of_edges(rows: int, columns: int) -> Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[EDGES[:, 1], EDGES[:, 0]] = True
    return mask


def grouped(rows: int, columns: int) -> Tensor:
    row, column = every_pair(rows, columns)
    return row // max(rows // 2, 1) == column // max(columns // 2, 1)


Case = tuple[MaskRule, Tensor]
"""A rule, and the dense mask that it keeps."""


def everywhere(rows: int, columns: int) -> Tensor:
    return torch.ones(rows, columns, dtype=torch.bool)


def band(low: int, high: int, rows: int, columns: int) -> Case:
    return masks.banded(low, high), everywhere(rows, columns).tril(high).triu(-low)


def triangle(diagonal: int, rows: int, columns: int) -> Case:
    return masks.lower_triangular(diagonal), everywhere(rows, columns).tril(diagonal)


def order(strict: bool, rows: int, columns: int) -> Case:
    compare = torch.gt if strict else torch.ge
    rule = masks.autoregressive(degrees(columns), degrees(rows), strict=strict)
    return rule, compare(degrees(rows)[:, None], degrees(columns))


def blocks(count: int, rows: int, columns: int) -> Case:
    return masks.block_diagonal(count), everywhere(rows, columns) if count == 1 else grouped(rows, columns)


def edges(rows: int, columns: int) -> Case:
    return masks.from_edges(EDGES), of_edges(rows, columns)


def edge_index(rows: int, columns: int) -> Case:
    return masks.from_edge_index(EDGES.T), of_edges(rows, columns)


BY_POSITION: dict[str, Callable[[int, int], Case]] = {
    **{f"band {ends}": partial(band, *ends) for ends in [(0, 0), (1, 0), (0, 2), (2, 1), (9, 0), (9, 9)]},
    **{f"triangle {diagonal}": partial(triangle, diagonal) for diagonal in (-9, -2, -1, 0, 1, 3, 9)},
    **{f"order, strict={strict}": partial(order, strict) for strict in (False, True)},
    **{f"blocks {count}": partial(blocks, count) for count in (1, 2)},
    "edges": edges,
    "edge_index": edge_index,
}


@pytest.mark.parametrize("name", BY_POSITION)
def test_rules_by_position_keep_the_entries_of_a_dense_mask(name: str) -> None:
    for rows, columns in itertools.product(SIDES, SIDES):
        if ("edge" in name and min(rows, columns) < 2) or (name == "blocks 2" and (rows % 2 or columns % 2)):
            continue
        rule, expected = BY_POSITION[name](rows, columns)
        pattern = rule.pattern(torch.empty(rows, columns))
        assert (pattern.shape, pattern.positions.dtype) == ((rows, columns), torch.int64)
        assert pattern.positions.tolist() == expected.flatten().nonzero().flatten().tolist()
        assert torch.equal(rule(torch.empty(rows, columns)), expected)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (-1, -3), (2, 1)])
def test_other_axes_are_batch(axes: tuple[int, int]) -> None:
    weight = torch.randn(4, 2, 6, generator=seeded())
    moved = weight.movedim(axes, (0, 1))
    for rule, mask in [
        (masks.lower_triangular(axes=axes), torch.ones(moved.shape[:2]).tril().bool()),
        (masks.block_diagonal(2, axes=axes), grouped(*moved.shape[:2])),
        (
            masks.per_block(masks.lower_triangular(), 2, axes=axes),
            torch.ones(moved.shape[0] // 2, moved.shape[1]).tril().bool().repeat(2, 1),
        ),
    ]:
        expected = mask[:, :, None].expand(moved.shape).movedim((0, 1), axes)
        assert torch.equal(rule(weight), expected)
    groups = moved.abs().movedim(1, -1).unflatten(-1, (-1, 2))  # type: ignore[no-untyped-call]
    largest = (groups == groups.max(-1, keepdim=True).values).flatten(-2).movedim(-1, 1).movedim((0, 1), axes)
    assert torch.equal(masks.n_of_m(1, 2, axes=axes)(weight), largest)


def test_random_rules_draw_as_in_the_first_release() -> None:
    generator = seeded()
    for rule, shape, expected in [
        (masks.random(density=0.25, generator=seeded()), (5, 6), [3, 6, 7, 9, 11, 14, 26, 28]),
        (masks.random(density=0.75, generator=seeded()), (3, 4), [0, 2, 3, 4, 5, 7, 8, 9, 10]),
        (masks.random(density=0.1, generator=seeded()), (3, 2, 3, 3), [9, 24, 25, 26, 47]),
        (masks.per_block(masks.random(density=0.25, generator=seeded()), 2), (4, 5), [4, 9, 10, 13]),
        (
            masks.erdos_renyi(density=0.2, rule=lambda density: masks.random(density=density, generator=generator)),
            (6, 5),
            [7, 9, 11, 13, 14, 26],
        ),
    ]:
        assert rule.pattern(torch.empty(shape)).positions.tolist() == expected


SPARSE: dict[str, Callable[[Tensor], Any]] = {
    "COO": lambda mask: mask.float().to_sparse(),
    "boolean COO": lambda mask: mask.to_sparse(),
    "COO with zeros": lambda mask: torch.sparse_coo_tensor(mask.nonzero().T, torch.zeros(int(mask.sum())), mask.shape),
    "repeated and unsorted COO": lambda mask: torch.sparse_coo_tensor(
        mask.nonzero().T.flip(1).repeat(1, 2), torch.ones(2 * int(mask.sum())), mask.shape
    ),
    "CSR": lambda mask: mask.double().to_sparse_csr(),
    "CSC": lambda mask: mask.float().to_sparse_csc(),
    "SciPy array": lambda mask: scipy.sparse.csr_array(mask.numpy()),
    "SciPy matrix": lambda mask: scipy.sparse.coo_matrix(mask.int().numpy()),
    "SciPy with zeros": lambda mask: scipy.sparse.csr_array(mask.int().numpy()) * 0,
}


@pytest.mark.parametrize("kind", SPARSE)
def test_a_mask_may_be_sparse(kind: str) -> None:
    mask = masks.random(density=0.3, generator=seeded())(torch.empty(5, 7))
    made: Any = SPARSE[kind](mask)
    for given in (made, lambda _: made):
        layer: Any = nn.Linear(7, 5)
        before = layer.weight.detach().clone()
        register(layer, {"weight": MaskedSparse(given)})
        assert torch.equal(layer.weight.detach(), before * mask)
        assert torch.equal(layer.parametrizations.weight[0].mask, mask)
        remask(layer, {"weight": masks.random(density=0.5)}, optimizer=None)
        remask(layer, {"weight": given}, optimizer=None)
        assert torch.equal(layer.parametrizations.weight[0].mask, mask)


def test_a_mask_of_any_shape_may_be_sparse() -> None:
    for shape in [(9,), (3, 2, 2, 2)]:
        mask = torch.arange(torch.Size(shape).numel()).view(shape) % 3 == 1
        constraint = MaskedSparse(mask.to_sparse())
        assert torch.equal(constraint.mask, mask)
        assert constraint.contains(mask.float())
        assert not constraint.contains(torch.ones(shape))


def test_a_given_sparse_mask_is_copied() -> None:
    given = torch.eye(3).to_sparse()
    constraint = MaskedSparse(given)
    given._indices().zero_()
    assert torch.equal(constraint.mask, torch.eye(3).bool())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: torch.eye(3).to_sparse(1), "without dense dimensions. Got 1"),
        (lambda: torch.eye(3).to_sparse_csr().to("meta"), "needs a dense or sparse mask with values"),
        (lambda: torch.eye(3).to_mkldnn(), r"Got one of layout torch._mkldnn on cpu. Pass mask.to_dense\(\)"),
        (
            lambda: torch.sparse_csr_tensor([0, 1, 2], [0, 7], [1.0, 1.0], (2, 3), check_invariants=False),
            "needs a mask with valid indices. Got one of layout torch.sparse_csr",
        ),
        (
            lambda: torch.sparse_csr_tensor([0, 2, 1, 2], [0, 1], [1.0, 1.0], (3, 3), check_invariants=False),
            "needs a mask with valid indices. Got one of layout torch.sparse_csr",
        ),
    ],
)
def test_unusable_sparse_masks_are_refused(made: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedSparse(made())


def test_a_sparse_mask_needs_the_shape_of_the_weight() -> None:
    with pytest.raises(ValueError, match=r"needs a mask of the weight's shape, \(4, 3\). Got shape \(3, 4\)"):
        register(nn.Linear(3, 4), {"weight": MaskedSparse(torch.ones(3, 4).to_sparse())})


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_masks_ignore_the_default_device(device: str) -> None:
    with torch.device(device):
        for mask in (scipy.sparse.eye_array(3), masks.banded(0, 0), masks.random(density=0.5), masks.block_diagonal(3)):
            layer: Any = register(nn.Linear(3, 3), {"weight": MaskedSparse(mask)})
            assert layer.parametrizations.weight[0].positions.device.type == "cpu"


def test_a_function_of_the_weight_sees_the_default_device() -> None:
    seen: list[str] = []

    def diagonal(weight: Tensor) -> Tensor:
        seen.extend([torch.ones(1).device.type, weight.device.type])
        return torch.eye(3, device="cpu") > 0

    with torch.device("meta"):
        register(nn.Linear(3, 3), {"weight": MaskedSparse(diagonal)})
    assert seen == ["meta", "meta"]
