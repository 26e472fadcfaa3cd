"""Numbers that are brought to their places by windows: the same numbers as one by one, wherever that is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from parametrizations import MaskedSparse, masks
from parametrizations._products import runs as windows
from parametrizations._products import small
from parametrizations._products.runs import Runs, runs
from parametrizations._products.scattered import scattered
from parametrizations._products.spread import Spread
from tests.layers import everywhere_in_windows, fused, parts_of, tensors_of


@pytest.fixture
def _windows_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere_in_windows(monkeypatch)


def triangle(side: int) -> Tensor:
    return torch.ones(side, side).tril().flatten().nonzero().flatten()


@st.composite
def some_places(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Places in a buffer, mostly in runs, in order or not, and the buffer's size."""
    size = draw(st.integers(0, 40))
    kept = torch.zeros(size, dtype=torch.bool)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, 40))
        kept[start : start + draw(st.integers(0, 20))] = True
    places = kept.nonzero().flatten()
    if draw(st.booleans()):
        cut = draw(st.integers(0, 40))
        places = torch.cat([places[cut:], places[:cut]])
    return places, size


@given(some_places(), st.integers(1, 6))
@example((torch.arange(3), 3), 3)  # no more than one window
@example((torch.tensor([6, 7, 1, 2, 3, 4, 5]), 8), 6)  # the first number is behind the last window
@example((torch.tensor([3, 5, 6, 7]), 8), 4)  # a window would bring the first number into a hole
def test_windows_bring_what_is_brought_one_by_one(places: tuple[Tensor, int], width: int) -> None:
    index, size = places
    with pytest.MonkeyPatch.context() as patch:
        everywhere_in_windows(patch, width)
        found = runs(index, size)
        assert (found is not None) == (index.numel() >= max(width, size / 8))
        if found is None:
            return
        there, back = found
        values, buffer = torch.full((index.numel(),), torch.nan), torch.randn(size)
        values[1::2] = torch.arange(1.0, 1 + values[1::2].numel())
        expected = torch.zeros(size).index_copy(0, index, values)
        written = there.gather(values, torch.empty(size))
        torch.testing.assert_close(written, expected, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(back.gather(buffer, torch.empty(index.shape)), buffer[index])


def test_of_a_triangle_almost_all_is_in_windows() -> None:
    places = triangle(1024)
    found = runs(places, 1024**2)
    assert found is not None
    there, back = found
    assert there.singles.numel() <= 1024 * windows.WIDTH / 1.5
    assert back.singles.numel() <= 1024 * windows.WIDTH / 3
    assert (there.zeros, back.zeros) == (windows.WIDTH, 0)  # without zeros in front nothing is copied to have them
    values, buffer = torch.randn(places.numel()), torch.randn(1024**2)
    assert torch.equal(there.gather(values, torch.empty(1024**2)), torch.zeros(1024**2).index_copy(0, places, values))
    assert torch.equal(back.gather(buffer, torch.empty(places.numel())), buffer[places])


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.9])
def test_places_without_runs_are_told_at_one_look(keep: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Runs, "of")
    kept = torch.rand(1024**2, generator=torch.Generator().manual_seed(0)) < keep
    assert runs(kept.nonzero().flatten(), 1024**2) is None


def test_few_places_and_few_among_many_are_brought_one_by_one() -> None:
    assert runs(triangle(512), 512**2) is None
    assert runs(torch.arange(2**18), 2**22) is None
    assert runs(torch.arange(2**18), 2**20) is not None


@pytest.mark.parametrize(("apart", "found"), [(48, False), (64, False), (128, True), (256, True)])
def test_what_belongs_elsewhere_is_no_more_than_a_twelfth(apart: int, found: bool) -> None:
    """A window with a hole leaves what is before the hole: 9 numbers of 64, or of 128."""
    holes = torch.ones(2**20, dtype=torch.bool)
    holes[8::apart] = False
    assert (runs(holes.nonzero().flatten(), 2**20) is not None) == found


@pytest.mark.parametrize("mask", [masks.lower_triangular(), masks.autoregressive(range(768), [*range(1, 769, 2)] * 2)])
@pytest.mark.parametrize("product", ["auto", "dense", "strips"])
def test_with_windows_an_index_takes_at_most_12_bytes_a_number(mask: Any, product: Any) -> None:
    parametrization = fused(lambda: MaskedSparse(mask, product=product), 768, 768).parametrizations.weight[0]
    held = {tensor.data_ptr(): tensor.nbytes for one in vars(parametrization).values() for tensor in tensors_of(one)}
    assert any(isinstance(one, Runs) for one in parts_of(tuple(vars(parametrization).values())))
    assert 0 < sum(held.values()) <= 12 * parametrization.positions.numel() + 16 * (768 + 768)


@pytest.mark.usefixtures("_windows_everywhere")
def test_a_source_may_be_lazily_conjugated_or_lie_apart_in_memory() -> None:
    found = runs(torch.arange(2, 9), 12)
    assert found is not None
    source = torch.randn(7, 2, dtype=torch.complex64)[:, 0].conj()
    assert torch.equal(found[0].gather(source, torch.empty(12, dtype=torch.complex64))[2:9], source)


@pytest.mark.usefixtures("_windows_everywhere")
@pytest.mark.parametrize("product", ["dense", "strips"])
def test_a_layer_has_the_same_outputs_and_gradients(product: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = fused(lambda: MaskedSparse(masks.banded(3, 1), product=product), 9, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "LEAST", 2**60)
        plain = fused(lambda: MaskedSparse(masks.banded(3, 1), product=product), 9, 7)
    plain.load_state_dict(layer.state_dict())
    gathered = seen_gathers(monkeypatch)
    inputs = torch.randn(3, 9)
    outcomes = []
    for one in (layer, plain):
        gathered.clear()
        output = one(inputs)
        outcomes.append([output, *torch.autograd.grad(output.square().sum(), list(one.parameters()))])
        assert len(gathered) == (2 if one is layer else 0)  # forward and backward
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)


def seen_gathers(monkeypatch: pytest.MonkeyPatch) -> list[Runs]:
    gathered: list[Runs] = []
    gather = Runs.gather

    def seen(self: Runs, source: Tensor, output: Tensor) -> Tensor:
        gathered.append(self)
        return gather(self, source, output)

    monkeypatch.setattr(Runs, "gather", seen)
    return gathered


@pytest.fixture
def spread(_windows_everywhere: None) -> Spread:
    found = Spread.of(torch.tensor([1, 2, 3, 4, 6, 7, 8, 11]), 12)
    assert found.runs is not None
    return found


def test_a_matrix_from_windows_has_every_derivative(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, x = torch.Size((3, 4)), torch.randn(8, dtype=torch.float64, requires_grad=True)
    matrix: Callable[[Tensor], Tensor] = lambda x: scattered(x, spread, shape).square()  # noqa: E731
    gathered = seen_gathers(monkeypatch)
    torch.autograd.gradcheck(matrix, x, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(matrix, x, check_batched_grad=True)
    assert spread.runs is not None
    assert set(spread.runs) == set(gathered)


def test_a_matrix_from_windows_is_that_from_places(spread: Spread, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = seen_gathers(monkeypatch)
    x, shape = torch.randn(8), torch.Size((3, 4))
    expected = scattered(x, Spread(12, spread.places.long()), shape)
    assert not gathered
    assert torch.equal(scattered(x, spread, shape), expected)
    assert len(gathered) == 1
    assert torch.equal(torch.func.vmap(lambda x: scattered(x, spread, shape))(x[None]), expected[None])
    assert torch.equal(torch.func.functional_call(Matrix(spread, shape), {"x": x}, ()), expected)
    with Recorded():  # type: ignore[no-untyped-call]
        assert torch.equal(scattered(x, spread, shape), expected)
    assert len(gathered) == 2  # functional_call is nothing but a call


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_small_matrix_starts_from_zeros_that_are_kept(deterministic: bool) -> None:
    """PyTorch refuses the one operation that this is for where it is asked for deterministic algorithms."""
    small.zeros.cache_clear()
    torch.use_deterministic_algorithms(deterministic)
    try:
        matrix = scattered(torch.ones(2), Spread(6, torch.tensor([1, 4])), torch.Size((2, 3)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert matrix.tolist() == [[0, 1, 0], [0, 1, 0]]
    assert small.zeros.cache_info().currsize == (0 if deterministic else 1)


def test_a_buffer_from_windows_follows_transforms(spread: Spread) -> None:
    x, along = torch.randn(2, 8)
    expected = Spread(12, spread.places.long()).buffer
    for one, other in zip(torch.func.jvp(spread.buffer, (x,), (along,)), (expected(x), expected(along)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.func.vmap(spread.buffer)(x[None]), expected(x)[None])


class Matrix(nn.Module):
    def __init__(self, spread: Spread, shape: torch.Size) -> None:
        super().__init__()
        self.spread, self.shape, self.x = spread, shape, nn.Parameter(torch.zeros(8))

    def forward(self) -> Tensor:
        return scattered(self.x, self.spread, self.shape)


class Recorded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    @override
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        return function(*arguments, **(named or {}))


def test_the_matrix_is_no_view_and_may_be_changed_in_place(spread: Spread) -> None:
    x = torch.randn(8, requires_grad=True)
    matrix = scattered(x, spread, torch.Size((3, 4)))
    assert not matrix._is_view()
    (gradient,) = torch.autograd.grad(matrix.mul_(2).sum(), x)
    assert torch.equal(gradient, torch.full((8,), 2.0))


def test_places_have_four_bytes_where_windows_bring_or_steps_are_rare() -> None:
    few = torch.arange(5)
    assert Spread.of(few, 9).places.dtype is torch.long
    assert Spread.of(few, 9, rarely=True).places.dtype is torch.int32
    assert Spread.of(few, 2**32, rarely=True).places.dtype is torch.long
    assert Spread.of(triangle(768), 768**2).places.dtype is torch.int32


@pytest.mark.parametrize(("rarely", "dtype"), [(False, torch.long), (True, torch.int32)])
def test_on_another_device_no_runs_are_looked_for(rarely: bool, dtype: torch.dtype) -> None:
    spread = Spread.of(torch.arange(2**19, device="meta"), 2**19, rarely=rarely)  # to look at it would fail
    assert (spread.places.dtype, spread.places.is_meta, spread.runs) == (dtype, True, None)
