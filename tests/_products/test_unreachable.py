"""Private functions, where no public call reaches the case: masks of gigabytes, and choices on a real GPU."""

from __future__ import annotations

import pytest
import torch

from parametrizations._products.choice import form_of
from parametrizations._products.operands import index_dtype
from parametrizations._products.strips import Strips, Window
from parametrizations.typing import Product


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2**16, 2**15 - 1), torch.int32), ((1, 2**31 - 1), torch.int32), ((2**16, 2**15), torch.int64)],
)
def test_positions_are_int32_where_they_fit(shape: tuple[int, int], dtype: torch.dtype) -> None:
    assert index_dtype(torch.Size(shape).numel()) is dtype


def test_a_strip_may_have_more_places_than_32_bits_can_count() -> None:
    side, ends = 2**16, [0, 2**32 - 1]
    form = Strips.of(torch.Size((side, side)), torch.tensor(ends), [Window(0, side, 0, side)])
    assert form.pieces[0].places is not None
    assert form.pieces[0].places.tolist() == ends


@pytest.mark.parametrize(
    ("product", "why"),
    [
        ("auto", "csr and replaced-diagonal need the CPU; strips have to be set"),
        ("csr", "csr and replaced-diagonal need the CPU; strips have to be set"),
        ("dense", "product='dense' is set"),
    ],
)
def test_on_another_device_there_is_no_search_for_a_cheaper_product(product: Product, why: str) -> None:
    _, found = form_of(torch.Size((4, 4)), torch.arange(4, device="meta"), product)  # reading a value would fail
    assert found == ("dense", why)
