"""All or nothing: if changing modules fails, everything is put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from parametrizations._torch.chains import chains
from parametrizations._torch.generators import states_of
from parametrizations._torch.private import buffers, parameters

__all__ = ["all_or_nothing"]


@contextmanager
def all_or_nothing(
    modules: Iterable[nn.Module], optimizer: Optimizer | None = None, rules: Iterable[object] = ()
) -> Iterator[None]:
    """Put modules, their own tensors, the optimizer and generators back to what they are now if the block fails.

    Of each tensor only a reference to its memory is kept. So the block may give it new memory, but must not write into
    the old.

    Args:
        modules: Those that the block changes. Their parametrizations are put back as well.
        optimizer: The optimizer whose state the block changes, or None.
        rules: What may draw random numbers in the block, from torch's own generators or from those that it holds.
    """
    before = [_before(part) for module in modules for part in _with_parametrizations(module)]
    held = [] if optimizer is None else _held_by(optimizer)
    states = states_of(rules)
    try:
        yield
    except BaseException:
        for one in before:
            one.restore()
        for container, contents in held:
            _refill(container, contents)
        for put_back, state in states:
            put_back(state)
        raise


class _Before(NamedTuple):
    """A module as it was; few objects, since the garbage collector would look through them for every module again."""

    module: nn.Module
    kind: type
    members: set[str]
    own: list[Any]
    filled: list[tuple[Any, list[Any]]]
    tensors: list[tuple[Tensor, Tensor, Tensor | None, bool]]

    def restore(self) -> None:
        """Put back every part, even if one cannot be: the caller is to see the error that started it."""
        with suppress(Exception):
            object.__setattr__(self.module, "__class__", self.kind)
            for name in _properties(self.kind) - self.members:  # PyTorch adds to a class that it has made before
                type.__delattr__(self.kind, name)
        _refill(vars(self.module), self.own)
        for container in _containers(self.module):
            container.clear()
        for container, contents in self.filled:
            _refill(container, contents)
        for tensor, data, grad, trained in self.tensors:
            with suppress(Exception):
                tensor.data = data
                tensor.grad = grad
                tensor.requires_grad_(trained)


def _before(module: nn.Module) -> _Before:
    tensors = [tensor for tensor in (*parameters(module).values(), *buffers(module).values()) if tensor is not None]
    return _Before(
        module,
        type(module),
        _properties(type(module)),
        _contents(vars(module)),
        [(container, _contents(container)) for container in _containers(module) if container],
        [(tensor, tensor.data, tensor.grad, tensor.requires_grad) for tensor in tensors],
    )


def _with_parametrizations(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    if chains(module):
        yield from module.get_submodule("parametrizations").modules()


def _properties(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if isinstance(value, property)}


def _containers(module: nn.Module) -> list[Any]:
    """The dictionaries, lists and sets of a module: refilled in place, as the handles of hooks hold them, too."""
    return [value for value in vars(module).values() if isinstance(value, dict | list | set)]


def _contents(container: Any) -> list[Any]:
    return list(container.items()) if isinstance(container, dict) else list(container)


def _refill(container: Any, contents: list[Any]) -> None:
    container.clear()
    container.extend(contents) if isinstance(container, list) else container.update(contents)


def _held_by(optimizer: Optimizer) -> list[tuple[Any, list[Any]]]:
    lists = [value for group in optimizer.param_groups for value in group.values() if isinstance(value, list)]
    return [
        (container, _contents(container))
        for container in (vars(optimizer), optimizer.state, *optimizer.param_groups, *lists)
    ]
