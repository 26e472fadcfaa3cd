"""``--device``: the device of the tests' tensors, and the skipped tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import conftest
from tests.cpu_alone import CPU_ALONE

ROOT = Path(__file__).resolve().parents[1]


def test_tensors_are_made_on_the_device(request: pytest.FixtureRequest) -> None:
    name = request.config.getoption("--device")
    assert torch.get_default_device() in (torch.device(name), torch.empty(0, device=name).device)


def test_on_another_device_cpu_tests_are_skipped_with_the_reason() -> None:
    command = [sys.executable, "-m", "pytest", "--device", "cpu:0", "-rs", "-p", "no:cacheprovider"]
    command += [f"{__file__}::{test_tensors_are_made_on_the_device.__name__}", "parametrizations/positive.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, cwd=ROOT)
    assert "about the CPU: an example shows what it prints there" in done.stdout
    assert done.stdout.startswith(".s")


def test_a_device_that_is_not_there_is_refused() -> None:
    options: Any = SimpleNamespace(
        getoption={"--device": "nowhere", "--without-mkl": False}.__getitem__, getini=lambda _: []
    )
    with pytest.raises(pytest.UsageError, match=r"--device needs a device of this machine. Got 'nowhere'"):
        conftest.pytest_configure(options)


@pytest.mark.parametrize("name", CPU_ALONE)
def test_every_skipped_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    found = list(ROOT.glob(f"{path.rstrip('/')}*"))
    assert found
    assert not function or f"def {function}(" in found[0].read_text()
