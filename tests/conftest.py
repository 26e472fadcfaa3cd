from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from parametrizations._products import csr

# No test asserts a time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-mkl", action="store_true", help="choose products as if torch had been built without MKL"
    )


def pytest_configure(config: pytest.Config) -> None:
    """In CI every warning is an error; elsewhere only those of this project are."""
    filters = config.getini("filterwarnings")
    if "CI" in os.environ:
        filters[:] = [line for line in filters if not line.startswith("default:::")]
    if config.getoption("--without-mkl"):
        csr.HAS_MKL = False
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # or threads that wait for work take it from the other processes


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test draws the same numbers, whichever tests ran before it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
