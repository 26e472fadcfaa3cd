"""The older ONNX exporter, ``dynamo=False``; the support matrix tests the newer one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from parametrizations import Parametrization, fuse
from tests.layers import INPUTS, every


@every
@pytest.mark.parametrize("rows", [4, 6, 9])
@pytest.mark.parametrize("fused", [True, False])
def test_the_older_exporter_gives_the_same_for_any_batch(
    make: Callable[[], Parametrization], rows: int, fused: bool, tmp_path: Path
) -> None:
    import onnxruntime

    layer: Any = register_parametrization(nn.Linear(6, rows), "weight", make())
    layer, file = fuse(layer) if fused else layer, tmp_path / "layer.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings
        names: Any = {"input_names": ["input"], "dynamic_axes": {"input": {0: "batch"}}}
        torch.onnx.export(layer, (INPUTS[:1],), file, dynamo=False, verbose=False, **names)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": INPUTS.numpy()})
    torch.testing.assert_close(torch.as_tensor(output), layer(INPUTS))
