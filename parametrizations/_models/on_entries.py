"""The entries of a weight, after every one of its parametrizations, without building it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from parametrizations._torch.private import children, is_traced, parameters
from parametrizations.parametrization import Parametrization

__all__ = ["entries_of", "stored_in"]


def entries_of(chain: nn.Module) -> Tensor | None:
    """What the first parametrization of a tensor multiplies with, for those on top of it.

    Args:
        chain: The `ParametrizationList` of a tensor.

    Returns:
        The stored tensor where there is one parametrization. Otherwise the entries that the first one stores, changed
        by each of the others; or None where one of these needs the weight, or is not of this library.
    """
    x = stored_in(chain)
    first, *others = children(chain).values()
    if not others:
        return x
    if not isinstance(first, Parametrization) or is_traced():  # a trace has no numbers to compare
        return None
    return _through(x, first, others)


def stored_in(chain: nn.Module) -> Tensor:
    """What is stored for one tensor, without the time that attributes of modules take."""
    x: Any = parameters(chain).get("original")
    x = chain.original if x is None else x  # a buffer, maybe
    stored: Tensor = x
    return stored


def _through(x: Tensor, first: Parametrization, others: list[nn.Module | None]) -> Tensor | None:
    places = first.places(x)
    entries: Tensor | None = x
    for step in others:
        if entries is None or places is None or not isinstance(step, Parametrization):
            return None
        entries = step.on_entries(entries, places)
    return entries
