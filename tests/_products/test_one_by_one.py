"""Numbers that are brought one by one are the same whichever kernel brings them, and a faster one is taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from parametrizations._products import one_by_one
from parametrizations._products.one_by_one import MANY, read, written
from parametrizations._products.scattered import scattered
from parametrizations._products.spread import Spread

THREADS = torch.get_num_threads()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(THREADS)


class Called(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations, and the most numbers that one of them gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.most = 0

    @override
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        self.names.append(function.overloadpacket.__name__)
        self.most = max(self.most, result.untyped_storage().nbytes() // result.itemsize)
        return result


def steps_of(output: Tensor) -> set[str]:
    """The names of what autograd recorded."""
    found, ahead = set(), [output.grad_fn]
    while ahead:
        step = ahead.pop()
        if step is not None:
            found.add(step.name())
            ahead += [one for one, _ in step.next_functions]
    return found


def shuffled(count: int, size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:count]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 2), st.integers(1, 5))
def test_numbers_come_to_their_places_and_back(count: int, more: int, threads: int, rows: int) -> None:
    places, values = shuffled(count, count + more), torch.arange(1.0, count + 1)
    torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_by_one, "MANY", 0)
        patch.setattr(one_by_one, "ROWS", rows)
        buffer = written(values, places, (count + more,))
        back = torch.full((count,), torch.nan)
        read(buffer, places, back)
    torch.set_num_threads(THREADS)
    expected = [0.0] * (count + more)
    for place, value in zip(places.tolist(), values.tolist(), strict=True):
        expected[place] = value
    assert buffer.tolist() == expected
    assert torch.equal(back, values)


def test_one_thread_scatters_and_several_copy(threads: int) -> None:
    with Called() as called:
        written(torch.ones(4), shuffled(4, 9), (3, 3))
    assert ("index_copy_" in called.names, "scatter_" in called.names) == (threads > 1, threads == 1)


@pytest.mark.parametrize(("count", "dtype"), [(MANY, torch.long), (MANY, torch.int32), (MANY - 1, torch.long)])
def test_what_is_much_is_shared_among_threads(count: int, dtype: torch.dtype, threads: int) -> None:
    """Places of four bytes are not: to convert them takes what is saved."""
    places, output = shuffled(count, MANY).to(dtype), torch.empty(count)
    with Called() as called:
        read(torch.arange(float(MANY)), places, output)
    assert ("gather" in called.names) == (threads > 1 and count == MANY and dtype is torch.long)
    assert torch.equal(output.long(), places.long())


@pytest.mark.parametrize(
    ("count", "size", "alone", "together"),
    [
        (2**13, 2**16, "PutBackward0", "PutBackward0"),
        (2**13 + 1, 2**16, "ScatterBackward0", "PutBackward0"),
        (9, 2**16 + 1, "ScatterBackward0", "IndexCopyBackward0"),
        (MANY - 1, 2**19, "ScatterBackward0", "IndexCopyBackward0"),
        (MANY, 2**19, "_ScatteredBackward", "_ScatteredBackward"),
    ],
)
def test_a_matrix_is_made_by_what_is_fastest(count: int, size: int, alone: str, together: str, threads: int) -> None:
    places, x = shuffled(count, size), torch.randn(count, requires_grad=True)
    matrix = scattered(x, Spread.of(places, size), torch.Size((1, size)))
    expected = torch.zeros(size).index_copy(0, places, x.detach())
    assert steps_of(matrix) & {"PutBackward0", "ScatterBackward0", "IndexCopyBackward0", "_ScatteredBackward"} == {
        alone if threads == 1 else together
    }
    assert torch.equal(matrix.detach(), expected[None])
    (gradient,) = torch.autograd.grad(matrix, x, expected[None].cos())
    assert torch.equal(gradient, x.detach().cos())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64, torch.complex32, torch.bool])
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_every_dtype(dtype: torch.dtype, threads: int) -> None:  # noqa: ARG001
    places, values = shuffled(MANY, MANY + 9), torch.randn(MANY).to(dtype)
    buffer, back = written(values, places, (MANY + 9,)), torch.empty(MANY, dtype=dtype)
    assert torch.equal(
        buffer.view(torch.uint8), torch.zeros_like(buffer).index_copy(0, places, values).view(torch.uint8)
    )
    read(buffer, places, back)
    assert torch.equal(back.view(torch.uint8), values.view(torch.uint8))


@pytest.mark.parametrize("lazily", ["conjugated", "negated"])
def test_what_is_lazily_changed_is_copied_once(lazily: str, threads: int) -> None:  # noqa: ARG001
    conjugated = torch.randn(MANY, dtype=torch.complex64).conj()
    source = conjugated if lazily == "conjugated" else conjugated.imag
    assert source.is_conj() or source.is_neg()
    places, output = shuffled(MANY, MANY), torch.empty(MANY, dtype=source.dtype)
    with Called() as called:
        read(source, places, output)
    assert torch.equal(output, source[places])
    assert called.most <= 2 * MANY  # the imaginary part lies in a complex number
