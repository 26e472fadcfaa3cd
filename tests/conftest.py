from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from parametrizations._products import csr
from parametrizations._tour.command_line import device
from tests.cpu_alone import why_cpu_alone

# No test asserts a time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-mkl", action="store_true", help="choose products as if torch had been built without MKL"
    )
    parser.addoption(
        "--device", default="cpu", help="where tests make what they look at: cpu (if not given), cuda, ..."
    )


def pytest_configure(config: pytest.Config) -> None:
    """In CI every warning is an error; elsewhere only those of this project are."""
    filters = config.getini("filterwarnings")
    if "CI" in os.environ:
        filters[:] = [line for line in filters if not line.startswith("default:::")]
    if config.getoption("--without-mkl"):
        csr.HAS_MKL = False
    if config.getoption("--device") != "cpu":
        try:
            torch.set_default_device(device(config.getoption("--device")))  # now, as modules of tests make tensors, too
        except argparse.ArgumentTypeError as error:
            raise pytest.UsageError(f"--device {error}") from error
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # or threads that wait for work take it from the other processes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another device what is about the CPU is skipped."""
    if config.getoption("--device") != "cpu":
        for item in items:
            why = why_cpu_alone(item)
            if why is not None:
                item.add_marker(pytest.mark.skip(reason=f"about the CPU: {why}"))


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end: to look for garbage among it takes most of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Every test draws the same numbers, whichever tests ran before it."""
    with torch.random.fork_rng():
        if torch.get_default_device().type == "cpu":
            torch.default_generator.manual_seed(0)  # `torch.manual_seed` keeps a traceback of each call for others
        else:
            torch.manual_seed(0)
        yield
