"""Long use in one process, and use from several threads."""

from __future__ import annotations

import copy
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tools.campaign.endurance import WIDTH, constrain, cycle, growth, make_step, model

LEAST = 4
"""Megabytes; a leak of one weight in each cycle would be more."""


@pytest.mark.slow
@pytest.mark.parametrize(("make", "times"), [(cycle, 500), (make_step, 2_000)])
def test_memory_stays_flat(make: Callable[[], Callable[[], object]], times: int) -> None:
    grown = growth(make(), times)
    assert grown.objects < times // 50
    assert grown.megabytes < LEAST


def test_a_leak_is_found() -> None:
    kept = []

    def leak() -> None:
        pages = mmap.mmap(-1, 2**16)  # new pages: tensors may lie in memory that earlier tests have freed
        pages.write(bytes([1]) * 2**16)
        kept.append([pages, *(torch.ones(WIDTH, WIDTH) for _ in range(10))])

    grown = growth(leak, 500)
    assert grown.objects >= 4_000  # 4,500, less some hundred objects of other tests that may be collected meanwhile
    assert grown.megabytes == 0 or grown.megabytes > LEAST


def test_two_threads_answer_while_a_copy_trains() -> None:
    made: Any = constrain(model())
    twin, input = copy.deepcopy(made), torch.ones(4, WIDTH)
    expected = made(input).detach()

    def answer() -> bool:
        with torch.inference_mode():
            return all(torch.equal(made(input), expected) for _ in range(200))

    def train() -> bool:
        optimizer = torch.optim.Adam(twin.parameters())
        for _ in range(50):
            optimizer.zero_grad()
            twin(input).square().mean().backward()
            optimizer.step()
        return not torch.equal(twin(input), expected)

    with ThreadPoolExecutor(3) as pool:
        outcomes = [pool.submit(work) for work in (answer, train, answer)]
        assert all(outcome.result() for outcome in outcomes)
    assert torch.equal(made(input), expected)
