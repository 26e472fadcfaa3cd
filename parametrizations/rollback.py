"""All or nothing: what a failed change of modules leaves behind is nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

__all__ = ["all_or_nothing"]

Undo = Callable[[], None]


@contextmanager
def all_or_nothing(modules: Iterable[nn.Module], optimizer: Optimizer | None) -> Iterator[None]:
    """Put modules, their own tensors, and the optimizer back to what they are now if the block fails.

    Tensors are put back by their storage, so the block may give a tensor another one but not write into it.

    Args:
        modules: Those that the block changes. What their tensors are computed by is put back, too.
        optimizer: The optimizer whose state the block changes, or None.
    """
    undo = [step for module in modules for part in _with_parametrizations(module) for step in _of_module(part)]
    undo += [] if optimizer is None else _of_optimizer(optimizer)
    try:
        yield
    except BaseException:
        for step in undo:
            step()
        raise


def _with_parametrizations(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    if is_parametrized(module):
        yield from module.get_submodule("parametrizations").modules()


def _of_module(module: nn.Module) -> list[Undo]:
    tensors = [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]
    own = vars(module)
    contents = [_of_container(value) for value in own.values() if isinstance(value, dict | list | set)]
    return [_of_class(module), _of_container(own), *contents, *map(_of_tensor, tensors)]


def _of_class(module: nn.Module) -> Undo:
    before = type(module)
    return lambda: setattr(module, "__class__", before)


def _of_tensor(tensor: Tensor) -> Undo:
    data, grad, trained = tensor.data, tensor.grad, tensor.requires_grad

    def restore() -> None:
        tensor.data = data
        tensor.grad = grad
        tensor.requires_grad_(trained)

    return restore


def _of_container(container: Any) -> Undo:
    """In place, since others may hold the container, as the handles of hooks do."""
    before = container.copy()

    def restore() -> None:
        container.clear()
        container.extend(before) if isinstance(container, list) else container.update(before)

    return restore


def _of_optimizer(optimizer: Optimizer) -> list[Undo]:
    return [_of_container(optimizer.state), *(_of_container(group["params"]) for group in optimizer.param_groups)]
