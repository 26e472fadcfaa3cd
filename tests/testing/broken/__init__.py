"""For every assertion of every law a parametrization that it catches: the mistakes that people make."""

from __future__ import annotations

from parametrizations.testing.subject import Subject
from tests.cases import weight
from tests.testing.broken import (
    checkpoints,
    gradients,
    products,
    registering,
    rest_of_pytorch,
    stored_values,
    training,
)
from tests.testing.broken.breaker import Breakers

__all__ = ["BROKEN", "subject"]

BROKEN: Breakers = (
    stored_values.BROKEN
    | registering.BROKEN
    | gradients.BROKEN
    | training.BROKEN
    | products.BROKEN
    | checkpoints.BROKEN
    | rest_of_pytorch.BROKEN
)


def subject(law: str, index: int) -> Subject:
    """What a law is shown to break it: the parametrization that is listed at the index, and a weight."""
    make, _ = BROKEN[law][index]
    # What a checkpoint holds beside the numbers shows only where there are many.
    return Subject(make(), weight((24, 23) if law == "checkpoint_is_compact" else (6, 5)))
