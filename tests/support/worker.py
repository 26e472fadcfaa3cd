"""Run by torchrun on every rank: a step of each case of the support matrix under DDP and under FSDP2."""

from __future__ import annotations

import copy
import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.support.matrix import CASES, Case


def step(case: Case, model: nn.Module, layer: nn.Module, rank: int, ranks: int) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for batch in (2, 4):
        optimizer.zero_grad()
        model(case.inputs(batch).chunk(ranks)[rank]).square().mean().backward()
        optimizer.step()


def main() -> None:
    """Compare both ways with one process, for each case."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for case in CASES:
        alone, layer, sharded = case.layer(), case.layer(), case.layer()
        step(case, alone, alone, 0, 1)
        step(case, DistributedDataParallel(layer), layer, rank, ranks)
        fully_shard(sharded)
        step(case, sharded, sharded, rank, ranks)
        gathered = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
        for kind, state in (("ddp", layer.state_dict()), ("fsdp2", gathered)):
            whole = copy.deepcopy(alone)
            whole.load_state_dict(state)
            torch.testing.assert_close(whole(case.inputs()), alone(case.inputs()))
            if rank == 0:
                print(f"{kind} {case}", flush=True)
        del layer, sharded


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main()
    gc.collect()  # live wrappers can abort at exit
    dist.barrier()
    dist.destroy_process_group()
