"""For every assertion of every law, a parametrization with a likely mistake that it catches."""

from __future__ import annotations

from parametrizations.testing.subject import Subject
from tests.cases import weight
from tests.testing.broken import (
    products,
    registering,
    rest_of_pytorch,
    stored_values,
    training,
)
from tests.testing.broken.breaker import Breakers

__all__ = ["BROKEN", "subject"]

BROKEN: Breakers = (
    stored_values.BROKEN | registering.BROKEN | training.BROKEN | products.BROKEN | rest_of_pytorch.BROKEN
)


def subject(law: str, index: int) -> Subject:
    """The subject that breaks a law: the parametrization at the index of its list, and a weight."""
    make, _ = BROKEN[law][index]
    # The overhead of a checkpoint is only visible with many numbers.
    return Subject(make(), weight((24, 23) if law == "checkpoint_is_compact" else (6, 5)))
