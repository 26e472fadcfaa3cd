"""`Places`: the positions of the stored entries of a weight, for the later constraints of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Places(NamedTuple):
    """The positions of the stored entries of a weight. All other entries are 0.

    Args:
        shape: The shape of the weight, ``(out, in)``.
        diagonal: Which stored entries lie on the main diagonal, as sorted indices from 0 to ``entries - 1``; None if
            the stored entries are exactly the main diagonal.
        positions: A function that returns the row-major positions of the stored entries, ``(entries,)``.
        blocks: The number of equal blocks of rows, each with a main diagonal that ``diagonal`` refers to.
        key: A key for memoised results, a new object whenever the positions or their device change. None: nothing is
            memoised.

    Example:
        Dale's law: the connections from one neuron all excite, or all inhibit. The map acts on each entry separately
        and keeps zeros, so ``on_entries`` can apply it to the stored entries.

        >>> from parametrizations import MaskedSparse, Parametrization, masks, explain, register
        >>> class Dale(Parametrization):
        ...     needs = "every column to have its sign"
        ...     dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        ...     def __init__(self, signs: Tensor) -> None:
        ...         super().__init__()
        ...         self.signs = signs
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return x.abs() * self.signs.to(x)
        ...     def excess(self, weight: Tensor) -> Tensor:
        ...         return (-weight * self.signs.to(weight)).clamp(min=0)
        ...     def project(self, weight: Tensor) -> Tensor:
        ...         return self.forward(weight)
        ...     def on_entries(self, x: Tensor, places: Places) -> Tensor:
        ...         return x.abs() * self.signs.to(x)[places.columns]
        >>> signs = torch.tensor([1.0, -1.0]).repeat(512)
        >>> steps = [MaskedSparse(masks.block_diagonal(8)), Dale(signs)]
        >>> layer = register(torch.nn.Linear(1024, 1024), {"weight": steps})
        >>> explain(layer)
        Explanation(product='strips', why='8 dense blocks in one batched product')
        >>> bool((layer.weight * signs >= 0).all())
        True
    """

    shape: torch.Size
    diagonal: Tensor | None
    positions: Callable[[], Tensor]
    blocks: int = 1
    key: object = None

    @property
    def has_whole_diagonal(self) -> bool:
        """Whether every entry of the main diagonal is stored."""
        return self.diagonal is None or self.diagonal.numel() == min(self.shape)

    @property
    def rows(self) -> Tensor:
        """The row (output) of each entry: ``(entries,)``."""
        return torch.div(self.positions(), self.shape[1], rounding_mode="floor")

    @property
    def columns(self) -> Tensor:
        """The column (input) of each entry: ``(entries,)``."""
        return self.positions() % self.shape[1]


def on_diagonal(positions: Tensor, shape: torch.Size) -> Tensor:
    """The indices, in the sorted row-major ``positions``, of the entries on the main diagonal."""
    wanted = torch.arange(min(shape), device=positions.device, dtype=positions.dtype) * (shape[1] + 1)
    places = torch.searchsorted(positions, wanted).clamp(max=max(positions.numel() - 1, 0))
    return places[positions[places] == wanted] if positions.numel() else places[:0]
