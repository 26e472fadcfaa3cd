"""The order of a module's own tensors, which PyTorch loses when it registers a parametrization."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from parametrizations._torch.chains import chains, originals
from parametrizations._torch.private import buffers, parameters, recurrent_names

__all__ = ["keep_order", "plain_order"]

_KEPT = "plain_order"


@contextmanager
def keep_order(module: nn.Module) -> Iterator[None]:
    """Write down the order before the block constrains a tensor of the module."""
    names = plain_order(module) if chains(module) else [*parameters(module), *buffers(module)]
    yield
    setattr(module.get_submodule("parametrizations"), _KEPT, names)


def plain_order(module: nn.Module) -> list[str]:
    """The names of the tensors of the plain module, constrained or not, in their original order.

    Parameters stand before buffers. If PyTorch's own function constrained the module first, the order is lost:
    then constrained tensors are taken to have come first, as weights do in PyTorch's layers. Recurrent layers have a
    list of their own.
    """
    there = [*chains(module), *parameters(module), *buffers(module)]
    known = getattr(module.get_submodule("parametrizations"), _KEPT, None)
    first = known or (recurrent_names(module) if isinstance(module, nn.RNNBase) else [])
    names = [name for name in dict.fromkeys([*first, *there]) if name in there]
    return sorted(names, key=lambda name: _is_buffer(module, name))


def _is_buffer(module: nn.Module, name: str) -> bool:
    """Whether a tensor is no parameter, or what is stored for it is none."""
    if name not in chains(module):
        return name in buffers(module)
    return not isinstance(next(iter(originals(chains(module)[name]).values())), nn.Parameter)
