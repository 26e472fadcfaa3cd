"""Run by torchrun on every rank: moving masks under DDP, and the refusal under FSDP2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from parametrizations import MaskedSparse, dense_gradients, masks, register, remask
from tests._models.distributed_worker import process_group
from tools.injection import everything, held_by


def model() -> Any:
    torch.manual_seed(0)
    rule = masks.random(density=0.3, generator=torch.Generator().manual_seed(0))
    linear = [nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 5)]
    made = nn.Sequential(*linear, nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3)).double()
    return register(made, {"[026].weight": MaskedSparse(rule)})


def batch(step: int) -> Tensor:
    return torch.randn(8, 12, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def train(made: Any, wrapped: Any, look: Any, rank: int = 0, ranks: int = 1) -> torch.optim.Optimizer:
    """Twelve steps, each rank on its share of a batch; after every third, masks move by gradient and by chance.

    Args:
        made: The constrained model.
        wrapped: The model to call.
        look: The argument of `dense_gradients`: `made` or `wrapped`.
        rank: The index of this rank.
        ranks: The number of ranks.
    """
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(5)
    prefix = "" if wrapped is made else "module."
    for step in range(12):
        optimizer.zero_grad()
        with dense_gradients(look, "*0.weight") as gradients:
            wrapped(batch(step).chunk(ranks)[rank]).square().mean().backward()
        optimizer.step()
        if step % 3 == 2:
            found = {f"{prefix}0.weight": gradient for gradient in gradients.values()}
            rules = {
                f"{prefix}0.weight": masks.rigl(0.3, found),
                f"{prefix}[26].weight": masks.evolutionary(0.3, generator=generator),
            }
            remask(wrapped, rules, optimizer=optimizer)
    return optimizer


def ddp(folder: Path, rank: int, ranks: int) -> None:
    """DDP trains like one process. Calls that would make ranks diverge are refused on each rank."""
    for look_at_wrapper, views in ((True, False), (False, True)):
        made = model()
        wrapped = DistributedDataParallel(made, gradient_as_bucket_view=views)
        optimizer = train(made, wrapped, wrapped if look_at_wrapper else made, rank, ranks)
        torch.save(made.state_dict(), folder / f"{rank}-{look_at_wrapper}.pt")
    before, held = everything(wrapped), held_by(optimizer)
    torch.manual_seed(rank)
    with pytest.raises(
        ValueError, match=r"needs the same mask on every rank. Got different ones for 'module.0.weight'"
    ):
        remask(wrapped, {"*.0.weight": masks.evolutionary(0.5)}, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"as many entries as before while DistributedDataParallel wraps the model"):
        remask(wrapped, {"*.0.weight": masks.magnitude(density=0.1)}, optimizer=optimizer)
    assert everything(wrapped) == before
    assert held_by(optimizer) == held
    remask(made, {"0.weight": masks.magnitude(density=0.1)}, optimizer=optimizer)
    again = DistributedDataParallel(made)
    again(batch(0).chunk(ranks)[rank]).sum().backward()
    optimizer.step()


def fsdp2() -> None:
    """The mask of a sharded parameter cannot be moved."""
    made = model()
    for layer in made:
        fully_shard(layer)
    fully_shard(made)
    with pytest.raises(ValueError, match=r"needs an unsharded stored tensor for '0.weight'. Got a DTensor"):
        remask(made, {"*": masks.magnitude(density=0.1)}, optimizer=None)


if __name__ == "__main__":
    with process_group():
        if sys.argv[1] == "ddp":
            ddp(Path(sys.argv[2]), dist.get_rank(), dist.get_world_size())
        else:
            fsdp2()
    print("done")
