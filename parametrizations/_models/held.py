"""Parameters that a module keeps a second time, outside of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from parametrizations._models.constrained import Slot, full_name
from parametrizations._torch.private import own_attributes

__all__ = ["require_held_once"]

DEPTH = 2
"""Levels of containers in an attribute that are searched."""


def require_held_once(model: nn.Module, slots: Sequence[Slot]) -> None:
    """Refuse plain parameters that an attribute of a module refers to, too.

    Registering changes the attribute of the owner alone. Code that reads the other attribute would use the stored
    tensor without the constraint. Attributes are searched, with the dictionaries, lists, tuples and sets in them.
    Optimizers, closures and other objects are not searched.

    Raises:
        ValueError: If there is such a parameter. The message names the attribute.
    """
    wanted = {id(slot.first_stored): slot for slot in slots if slot.parametrizations is None}
    for prefix, module in model.named_modules():
        for name, value in own_attributes(module).items():
            for tensor in _tensors(value, DEPTH):
                if id(tensor) in wanted:
                    raise ValueError(
                        f"register needs a parameter that only its owner holds, for {wanted[id(tensor)].name!r}. Got "
                        f"one that {full_name(prefix, name)!r} of {type(module).__name__} refers to, too. Read the "
                        "parameter from its owner instead, or register before the other reference is made."
                    )


def _tensors(value: object, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set | frozenset):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)
