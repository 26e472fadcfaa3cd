"""Run by torchrun on every rank: train a constrained model for some steps, from one gathered checkpoint to the next."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    bake,
    masks,
    plain_state_dict,
    register,
    summary,
)

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
BATCH = 8


def plain() -> Any:
    torch.manual_seed(0)
    linear: list[Any] = [*(nn.Linear(12, 12) for _ in range(4)), nn.Linear(12, 5)]
    linear[2] = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    linear[2][1].weight = linear[2][0].weight
    return nn.Sequential(*linear, nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3)).double()


def model() -> Any:
    rules: dict[str, Any] = {
        "0.weight": MaskedSparse(masks.random(density=0.3, generator=torch.Generator().manual_seed(0))),
        "1.weight": Diagonal(),
        "2.*.weight": ZeroDiagonal(),
        "3.weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
        "4.bias": MaskedSparse(torch.arange(5) % 2 == 0),
        "6.weight": MaskedSparse(masks.magnitude(density=0.5)),
    }
    return register(plain(), rules)


def batch(step: int) -> Tensor:
    return torch.randn(BATCH, 12, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def train(layers: Any, optimizer: torch.optim.Optimizer, steps: range, rank: int = 0, ranks: int = 1) -> None:
    """Train each rank on its share of each batch; gradients are averaged over the ranks."""
    for step in steps:
        optimizer.zero_grad()
        layers(batch(step).chunk(ranks)[rank]).square().mean().backward()
        optimizer.step()


@contextmanager
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo")
    yield
    gc.collect()  # live wrappers can abort at exit
    dist.barrier()
    dist.destroy_process_group()


def main(kind: str, folder: Path, start: int, stop: int) -> None:
    """Train from ``start.pt``, if it exists, to ``stop.pt``, and convert that to a plain checkpoint."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    layers = model()
    if kind == "fsdp2":
        for layer in layers:
            fully_shard(layer)
        fully_shard(layers)
    wrapped = DistributedDataParallel(layers) if kind == "ddp" else layers
    optimizer = torch.optim.Adam(layers.parameters(), lr=0.01)
    if start:
        state = torch.load(folder / f"{start}.pt", weights_only=True)
        set_state_dict(
            layers, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=FULL
        )
    train(wrapped, optimizer, range(start, stop), rank, ranks)
    check_every_rank(layers, kind)
    of_model, of_optimizer = get_state_dict(layers, optimizer, options=FULL)
    found = plain_state_dict(layers, of_model)
    assert bool(found) == (rank == 0)
    if rank == 0:
        torch.save({"model": of_model, "optimizer": of_optimizer}, folder / f"{stop}.pt")
        torch.save(found, folder / f"{stop}-plain.pt")


def check_every_rank(layers: Any, kind: str) -> None:
    """The constraints hold on this rank; calls that do not support sharding say what to do."""
    if kind == "fsdp2":
        for call in (bake, plain_state_dict):
            with pytest.raises(ValueError, match=r"full_state_dict=True"):
                call(layers)
        with pytest.raises(ValueError, match=r"register before fully_shard"):
            register(layers, {"4.weight": Diagonal()})
        with pytest.raises(RuntimeError, match=r"MaskedSparse needs its stored tensor in one piece. Got .* sharded"):
            _ = layers[0].weight
        with pytest.raises(RuntimeError, match=r"Assigning 'weight' needs an unsharded stored tensor"):
            layers[2][0].weight = torch.zeros(12, 12)
        layers.unshard()
        for layer in layers:
            layer.unshard()
    fresh = model()
    assert torch.equal(layers[0].weight != 0, fresh[0].weight != 0)
    assert torch.equal(layers[4].bias != 0, fresh[4].bias != 0)
    assert torch.equal(layers[6].weight != 0, fresh[6].weight != 0)
    assert bool((layers[1].weight[~torch.eye(12, dtype=torch.bool)] == 0).all())
    assert all(bool((layer.weight.diagonal() == 0).all()) for layer in layers[2])
    assert torch.equal(layers[2][0].weight, layers[2][1].weight)
    assert bool((layers[3].weight.diagonal() < 0).all())
    assert not bool(layers[3].weight.triu(1).any())
    assert [row.holds for row in summary(layers).rows] == [True] * 6
    if kind == "fsdp2":
        for layer in layers:
            layer.reshard()
        layers.reshard()


if __name__ == "__main__":
    with process_group():
        main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    print("done")
