from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from tests.cpu_alone import why_cpu_alone
from tests.thresholds import without_mkl

# No test asserts a time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-mkl", action="store_true", help="choose products as if torch had been built without MKL"
    )
    parser.addoption("--device", default="cpu", help="where tests create tensors: cpu (if not given), cuda, ...")


def pytest_configure(config: pytest.Config) -> None:
    """In CI every warning is an error; elsewhere only those of this project are."""
    filters = config.getini("filterwarnings")
    if "CI" in os.environ:
        filters[:] = [line for line in filters if not line.startswith("default:::")]
    if config.getoption("--without-mkl"):
        without_mkl(pytest.MonkeyPatch())
    if config.getoption("--device") != "cpu":
        # Before the collection, since test modules create tensors at import.
        torch.set_default_device(_device(config.getoption("--device")))
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # idle threads would slow the other processes down


def _device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise pytest.UsageError(f"--device needs a device of this machine. Got {name!r}: {reason}") from error
    return torch.device(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another device, skip the tests in `CPU_ALONE`. Ignore the warnings of trainers, whose code is not ours."""
    for item in items:
        if item.path.name == "trainers.md":
            item.add_marker(pytest.mark.filterwarnings("ignore"))
    if config.getoption("--device") != "cpu":
        for item in items:
            why = why_cpu_alone(item)
            if why is not None:
                item.add_marker(pytest.mark.skip(reason=f"about the CPU: {why}"))


def pytest_collection_finish() -> None:
    """Exclude imported modules and collected tests from garbage collection: a pass over them takes most of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Give every test the same random numbers, whichever tests ran before it."""
    with torch.random.fork_rng():
        if torch.get_default_device().type == "cpu":
            torch.default_generator.manual_seed(0)  # `torch.manual_seed` keeps a traceback of each call for others
        else:
            torch.manual_seed(0)
        yield
