"""DDP and FSDP2 on two and four processes equal one process: constraints, checkpoints, resuming."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from parametrizations import bake, plain_state_dict
from tests._models.distributed_worker import batch, model, plain, train

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def on_ranks(ranks: int, kind: str, folder: Path, start: int, stop: int) -> None:
    worker = Path(__file__).with_name("distributed_worker.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]
    command = [*torchrun, str(worker), kind, str(folder), str(start), str(stop)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == ranks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_then_four_are_as_one_process(kind: str, tmp_path: Path) -> None:
    on_ranks(2, kind, tmp_path, 0, 3)
    on_ranks(4, kind, tmp_path, 3, 6)
    alone = model()
    optimizer = torch.optim.Adam(alone.parameters(), lr=0.01)
    for stop in (3, 6):
        train(alone, optimizer, range(stop - 3, stop))
        expected, found = plain_state_dict(alone), torch.load(tmp_path / f"{stop}-plain.pt", weights_only=True)
        assert list(found) == list(expected) == list(plain().state_dict())
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6)
    unconstrained = plain()
    unconstrained.load_state_dict(found)
    torch.testing.assert_close(unconstrained(batch(9)), bake(alone)(batch(9)), rtol=1e-6, atol=1e-6)
    resumed = model()
    resumed.load_state_dict(torch.load(tmp_path / "6.pt", weights_only=True)["model"])
    torch.testing.assert_close(resumed(batch(9)), alone(batch(9)), rtol=1e-6, atol=1e-6)
