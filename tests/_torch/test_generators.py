"""Random generators that a call may draw from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from typing_extensions import override

from parametrizations._torch.generators import EACH, states_of


class Endless(list[int]):
    """What a rule was made from, larger than anybody wants to look through."""

    @override
    def __iter__(self) -> Iterator[int]:
        yield from range(2 * EACH)
        raise AssertionError


def test_a_generator_beside_much_data_is_found_without_looking_through_the_data() -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    before = generator.get_state()
    states = states_of([{"data": Endless(), "deeper": [[[generator]]]}])
    torch.rand(3, generator=generator)
    for put_back, state in states:
        put_back(state)
    assert torch.equal(generator.get_state(), before)


def test_what_refers_to_itself_is_looked_at_once() -> None:
    rules: list[object] = [torch.Generator()]
    rules.append(rules)
    assert len(states_of([rules])) == 2
