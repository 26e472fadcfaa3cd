"""Masks move on two processes: equally on each, and as in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests._models.remask_worker import model, train

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def on_two_ranks(*arguments: str) -> None:
    worker = Path(__file__).with_name("remask_worker.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*torchrun, str(worker), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2


@pytest.mark.slow
def test_two_ranks_move_masks_as_one_process(tmp_path: Path) -> None:
    on_two_ranks("ddp", str(tmp_path))
    alone = model()
    before = alone.state_dict()
    train(alone, alone, alone)
    expected = alone.state_dict()
    for place in (0, 6):
        key = f"{place}.parametrizations.weight.0._extra_state"
        assert not torch.equal(before[key], expected[key])
    for rank in (0, 1):
        for way in (True, False):
            found = torch.load(tmp_path / f"{rank}-{way}.pt", weights_only=True)
            assert list(found) == list(expected)
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_sharded_masks_say_what_to_do() -> None:
    on_two_ranks("fsdp2")
