"""A fused layer stays on its device and reads no value from it, because that would wait for a GPU."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests._products.other_device_worker import BROKEN, LAYERS


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no device from Python",
)
def test_every_fused_layer_stays_on_its_device_and_reads_no_value() -> None:
    worker = Path(__file__).with_name("other_device_worker.py")
    done = subprocess.run([sys.executable, str(worker)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    wrong = json.loads(done.stdout)
    assert {name for name in wrong if wrong[name]} == set(BROKEN), wrong
    assert set(wrong) == {*LAYERS, *BROKEN}
    assert "_local_scalar_dense" in wrong["Asks"]
    assert "index_select.default takes tensors on ['cpu', 'elsewhere']" in wrong["Strays"]
    assert "takes tensors on ['cpu']" in wrong["Brings"]


@contextmanager
def without_waiting() -> Iterator[None]:
    """Raise an error if the CPU waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def with_gradients(layer: Any, inputs: Tensor) -> list[Tensor]:
    output = layer(inputs)
    return [output, *torch.autograd.grad(output.sum(), [inputs, *layer.parameters()])]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_on_a_gpu_results_equal_the_cpu_without_waiting(make: Callable[[], Any]) -> None:
    layer = make().cpu()
    there, inputs = copy.deepcopy(layer).cuda(), torch.linspace(-1, 1, 2 * layer.in_features, device="cpu").view(2, -1)
    on_gpu = inputs.cuda().requires_grad_()
    with_gradients(there, on_gpu)  # the first call initialises libraries
    with without_waiting():
        got = with_gradients(there, on_gpu)
    for one, other in zip(got, with_gradients(layer, inputs.requires_grad_()), strict=True):
        torch.testing.assert_close(one.cpu(), other)
