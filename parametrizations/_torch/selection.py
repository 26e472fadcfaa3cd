"""Some entries of a matrix that is not there: enough for what fills every entry alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from parametrizations._torch.private import shell, untouched_by_torch_function

__all__ = ["Selection"]

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
    """Looks like a matrix to `torch.nn.init`, and holds the entries that are stored.

    Its shape, and so the fans that an initialisation computes, are the matrix's. What fills or changes every entry
    alike happens to the stored ones; anything else, such as an orthogonal initialisation, takes the matrix.

    Args:
        entries: The stored tensor; filled in place.
        shape: The matrix's, ``(out, in)``.

    Raises:
        NotImplementedError: From an operation that is not entry-wise.
    """

    entries: Tensor
    __torch_function__ = untouched_by_torch_function

    @staticmethod
    def __new__(cls, entries: Tensor, shape: torch.Size) -> Selection:
        """An empty shell of the matrix's shape around the entries."""
        made: Selection = shell(cls, shape, entries)
        made.entries = entries
        return made

    @property
    def data(self) -> Selection:
        """The same entries; the matrix itself cannot be given."""
        return Selection(self.entries, self.shape)

    @data.setter
    def data(self, value: Tensor) -> None:
        raise NotImplementedError("A selection needs an operation that fills every entry alike. Got a matrix.")

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
            raise NotImplementedError(f"A selection needs an operation that fills every entry alike. Got {name}.")
        function(arguments[0].entries, *arguments[1:], **(options or {}))
        return arguments[0]
