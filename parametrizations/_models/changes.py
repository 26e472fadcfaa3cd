"""`Changes`: the changes of one call, such as `register`, `bake` or `remask`, collected first and made at once."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from parametrizations._torch.loops import forget
from parametrizations._torch.parameters import replace_data

Container = TypeVar("Container", dict[Any, Any], list[Any])


class Changes:
    """The changes of one call.

    A call first builds and checks new objects, which may fail. The new objects are collected here. `commit` only makes
    assignments, which cannot fail. So an error leaves the model and the optimizer unchanged.
    """

    def __init__(self) -> None:
        self._drafts: dict[int, tuple[Any, Any]] = {}
        self._data: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._attributes: list[tuple[object, str, object]] = []

    def draft(self, container: Container) -> Container:
        """The one copy of a container, to edit. `commit` puts the contents of the copy into the container."""
        shallow: Any = dict(container) if isinstance(container, dict) else list(container)
        draft: Container = self._drafts.setdefault(id(container), (container, shallow))[1]
        return draft

    def data(self, tensor: Tensor, data: Tensor, gradient: Tensor | None = None) -> None:
        """Record new data for a tensor, and a new gradient or none. The tensor stays the same object."""
        self._data[id(tensor)] = (tensor, data, gradient)

    def data_of(self, tensor: Tensor) -> Tensor:
        """The data that a tensor will have after `commit`."""
        return self._data[id(tensor)][1] if id(tensor) in self._data else tensor.data

    def attribute(self, owner: object, name: str, value: object) -> None:
        """Record an attribute. `commit` sets it without the ``__setattr__`` of the class, which may refuse."""
        self._attributes.append((owner, name, value))

    def commit(self) -> None:
        """Make all changes. `register`, `bake` and `remask` change the model only here."""
        for tensor, data, gradient in self._data.values():
            replace_data(tensor, data)
            tensor.grad = gradient
        for container, contents in self._drafts.values():
            container.clear()
            container.extend(contents) if isinstance(container, list) else container.update(contents)
        for owner, name, value in self._attributes:
            if name == "__class__":  # works even if the class has a property of this name
                vars(object)["__class__"].__set__(owner, value)
            else:
                object.__setattr__(owner, name, value)
        forget()
