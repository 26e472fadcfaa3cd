from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# No test asserts a time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test draws the same numbers, whichever tests ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
