"""`Selection`: stored entries with the shape, but not the memory, of the dense matrix, for `torch.nn.init`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations._torch.private import shell, untouched_by_torch_function

_ENTRY_WISE = (
    "uniform_",
    "normal_",
    "fill_",
    "zero_",
    "erfinv_",
    "mul_",
    "add_",
    "sub_",
    "div_",
    "clamp_",
    "copysign_",
)


class Selection(Tensor):
    """The stored entries, with the shape of the matrix for `torch.nn.init`, which computes fans from it.

    In-place fills and arithmetic with numbers act on the stored entries. Other operations, such as an orthogonal
    initialisation, raise an error.

    Args:
        entries: The stored tensor, which is changed in place.
        shape: The shape of the matrix, ``(out, in)``.

    Raises:
        NotImplementedError: From any other operation.
    """

    entries: Tensor
    __torch_function__ = untouched_by_torch_function

    @staticmethod
    def __new__(cls, entries: Tensor, shape: torch.Size) -> Selection:
        """A tensor without memory and with the shape of the matrix. Its attribute ``entries`` is the stored tensor."""
        made: Selection = shell(cls, shape, entries)
        made.entries = entries
        return made

    @property
    def data(self) -> Selection:
        """A new `Selection` of the same entries. Assigning to ``data`` raises an error."""
        return Selection(self.entries, self.shape)

    @data.setter
    def data(self, value: Tensor) -> None:
        raise NotImplementedError(
            "A Selection of stored entries needs an entry-wise operation, such as normal_. Got a matrix for its data."
        )

    @classmethod
    @override
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        function: Any,
        types: tuple[type, ...],
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        name = function.overloadpacket.__name__
        if name == "detach":
            return cls(arguments[0].entries, arguments[0].shape)
        if name not in _ENTRY_WISE or any(isinstance(argument, Tensor) for argument in arguments[1:]):
            raise NotImplementedError(
                f"A Selection of stored entries needs an entry-wise operation, such as normal_. Got {name}."
            )
        function(arguments[0].entries, *arguments[1:], **(options or {}))
        return arguments[0]
