"""`Changes`: what `register`, `bake`, `remask` or ``reset_parameters`` changes, collected first and made at once."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

from parametrizations._torch.loops import forget
from parametrizations._torch.parameters import replace_data

Container = TypeVar("Container", dict[Any, Any], list[Any])


class Changes:
    """The changes of one call.

    A call first builds new objects, and checks may fail. It collects them here. `commit` consists of assignments that
    cannot fail. So an error leaves the model and the optimizer unchanged.
    """

    def __init__(self) -> None:
        self._drafts: dict[int, tuple[Any, Any]] = {}
        self._data: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._attributes: list[tuple[object, str, object]] = []

    def draft(self, container: Container) -> Container:
        """A copy of a dictionary or list, to edit. `commit` puts its contents into the container."""
        shallow: Any = dict(container) if isinstance(container, dict) else list(container)
        draft: Container = self._drafts.setdefault(id(container), (container, shallow))[1]
        return draft

    def data(self, tensor: Tensor, data: Tensor, gradient: Tensor | None = None) -> None:
        """Record new data and a new gradient, or none, for a tensor. It stays the same object."""
        self._data[id(tensor)] = (tensor, data, gradient)

    def data_of(self, tensor: Tensor) -> Tensor:
        """The data that a tensor will have."""
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
            if name == "__class__":  # also if the class has a property of this name
                vars(object)["__class__"].__set__(owner, value)
            else:
                object.__setattr__(owner, name, value)
        forget()
