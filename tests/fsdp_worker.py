"""Run by torchrun on every rank: train a sharded sparse layer, gather its checkpoint, load it unsharded."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils.parametrize import register_parametrization

from parametrizations import MaskedSparse, masks
from tests.cases import checkerboard


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    layer = register_parametrization(nn.Linear(6, 4), "weight", MaskedSparse(checkerboard((4, 6))))
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(3, 6)).square().sum().backward()
    optimizer.step()
    state = get_model_state_dict(layer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        whole = register_parametrization(nn.Linear(6, 4), "weight", MaskedSparse(masks.random(0.2)))
        whole.load_state_dict(state)
        assert isinstance(whole.weight, torch.Tensor)
        assert torch.equal(whole.weight != 0, checkerboard((4, 6)))
        print("the gathered mask is whole")
    del layer, optimizer, state
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
