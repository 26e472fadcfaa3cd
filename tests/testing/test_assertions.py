"""Without any one assertion of a law, a broken parametrization passes."""

from __future__ import annotations

import functools
import re

import pytest
import torch

from parametrizations.testing.check import LAWS
from tests.testing.assertions import assertions, outcome, without
from tests.testing.broken import BROKEN, subject

BREAKERS = [(law, index) for law, breakers in BROKEN.items() for index in range(len(breakers))]
ASSERTIONS = [(law, line, text) for law, function in LAWS.items() for line, text in assertions(function).items()]
GPU_ONLY = "The weight on the GPU"


@functools.cache
def _outcome(law: str, index: int) -> tuple[str, int]:
    return outcome(LAWS[law], subject(law, index))


def _skip_what_needs_a_gpu(text: str) -> None:
    if GPU_ONLY in text and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


def test_every_law_has_a_broken_parametrization() -> None:
    assert set(BROKEN) == set(LAWS)


@pytest.mark.parametrize(("law", "index"), BREAKERS)
def test_a_law_catches_broken_parametrizations(law: str, index: int) -> None:
    message = BROKEN[law][index][1]
    _skip_what_needs_a_gpu(message)
    assert re.search(message, _outcome(law, index)[0])


@pytest.mark.parametrize(("law", "line", "text"), ASSERTIONS, ids=[f"{law}-{line}" for law, line, _ in ASSERTIONS])
def test_no_assertion_can_be_dropped(law: str, line: int, text: str) -> None:
    _skip_what_needs_a_gpu(text)
    caught = [index for index in range(len(BROKEN[law])) if _outcome(law, index)[1] == line]
    assert caught, f"Nothing in BROKEN[{law!r}] is caught by {text}"
    shorter = without(LAWS[law], line)
    unnoticed = [not re.search(BROKEN[law][index][1], outcome(shorter, subject(law, index))[0]) for index in caught]
    assert any(unnoticed), f"Without {text} the law says the same."
