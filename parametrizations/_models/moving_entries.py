"""What belongs to each stored number, such as an optimizer's moments, when a mask moves."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import LBFGS, Adagrad, Optimizer, Rprop

from parametrizations.masks.rule import Swapped

__all__ = ["Move", "moved_state", "require_states_by_entry"]


class Move(NamedTuple):
    """Where each entry of the new mask was in the old one.

    Args:
        source: Its place among the old entries; any number where it was none of them: ``(new,)``.
        stays: Whether it was one of them: ``(new,)``.
    """

    source: Tensor
    stays: Tensor

    @classmethod
    def between(cls, old: Tensor, new: Tensor) -> Self:
        """The move from some sorted positions to others."""
        source = torch.searchsorted(old, new).clamp_(max=max(old.numel() - 1, 0))
        stays = old[source] == new if old.numel() else torch.zeros_like(new, dtype=torch.bool)
        return cls(source, stays)

    @classmethod
    def swapping(cls, old: Tensor, swapped: Swapped) -> tuple[Tensor, Self]:
        """The sorted positions after a swap of some of the old ones, and the move to them."""
        staying, comes = swapped.stays.nonzero().squeeze(1), swapped.comes
        stay_before = F.pad(swapped.stays.cumsum(0), (1, 0))[swapped.before]
        seats = stay_before + torch.arange(comes.numel(), device=comes.device)
        stayed = torch.ones(staying.numel() + comes.numel(), dtype=torch.bool, device=old.device)
        stayed.index_fill_(0, seats, False)
        source = torch.zeros_like(stayed, dtype=staying.dtype).masked_scatter_(stayed, staying)
        return old.index_select(0, source).index_copy_(0, seats, comes.to(old)), cls(source, stayed)

    def of(self, entries: Tensor, fresh: float | complex = 0) -> Tensor:
        """The same numbers for the entries that stay, bit for bit, and ``fresh`` for those that come."""
        if not entries.numel():
            return entries.detach().new_full(self.source.shape, fresh)
        source, stays = self.source.to(entries.device), self.stays.to(entries.device)
        return torch.where(stays, entries.detach().index_select(0, source), entries.detach().new_tensor(fresh))


def require_states_by_entry(optimizer: Optimizer, name: str, tensor: Tensor) -> None:
    """Refuse state that is neither one number for each stored number nor one for all of them.

    Raises:
        ValueError: If the optimizer holds such state for the tensor of that name.
    """
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            f"remask needs an optimizer with state for each entry of {name!r}. Got LBFGS, whose history is one of "
            "all parameters together. Pass optimizer=None, and make a new one afterwards."
        )
    for key, value in optimizer.state.get(tensor, {}).items():
        if isinstance(value, Tensor) and not _is_understood(value, tensor):
            raise ValueError(
                f"remask needs an optimizer with state for each of the {tensor.numel()} stored numbers of {name!r}, or "
                f"for all together. Got {type(value).__name__} {key!r} of shape {tuple(value.shape)} in "
                f"{type(optimizer).__name__}. Make a new optimizer afterwards; one that is older than the mask, or "
                "packs its state, cannot go on."
            )


def moved_state(optimizer: Optimizer, tensor: Tensor, move: Move) -> dict[str, Any]:
    """The optimizer's state of a tensor after the move, as new tensors; what is one for all, such as a step, stays."""
    state = optimizer.state.get(tensor, {})
    group = next((group for group in optimizer.param_groups if any(tensor is one for one in group["params"])), {})
    return {
        key: move.of(value, _fresh(optimizer, group, key, value.dtype)) if _is_by_entry(value, tensor) else value
        for key, value in state.items()
    }


def _is_understood(value: Tensor, tensor: Tensor) -> bool:
    return value.numel() == 1 or (type(value) in (Tensor, torch.nn.Parameter) and _is_by_entry(value, tensor))


def _is_by_entry(value: object, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == tensor.shape


def _fresh(optimizer: Optimizer, group: dict[str, Any], key: str, dtype: torch.dtype) -> float | complex:
    """What a state begins with: 0, but for two of PyTorch's optimizers."""
    start: float = 0
    if isinstance(optimizer, Adagrad) and key == "sum":
        start = float(group["initial_accumulator_value"])
    elif isinstance(optimizer, Rprop) and key == "step_size":
        start = float(group["lr"])
    return complex(start, start) if dtype.is_complex else start
