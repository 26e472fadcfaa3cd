"""Rules for the signs of `Signed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import check_fraction, count_of, require_generator, require_values

__all__ = ["SignRule", "as_is", "dale"]


@dataclass(frozen=True, eq=False)
class SignRule:
    """A named function from a weight to signs that broadcast to its shape.

    A deep copy is the rule itself, so copies share its `torch.Generator`.

    Args:
        name: The text that `repr` shows.
        build: The function; it returns -1, 0 (free) and 1, in a shape that broadcasts to the weight's.

    Example:
        >>> rows = SignRule("rows", lambda weight: torch.ones(weight.shape[0], 1))
        >>> rows(torch.zeros(2, 3))
        tensor([[1.],
                [1.]])
    """

    name: str
    build: Callable[[Tensor], Tensor]

    def __call__(self, weight: Tensor) -> Tensor:
        """The signs for a weight."""
        if not isinstance(weight, Tensor):
            raise TypeError(f"{self} needs the weight, a tensor. Got {type(weight).__name__}. Pass e.g. layer.weight.")
        return self.build(weight)

    def __deepcopy__(self, memo: dict[int, object]) -> SignRule:
        return self

    def __repr__(self) -> str:
        return self.name


@by_signature
def as_is() -> SignRule:
    """Every entry keeps the sign that it has at registration; zeros count as positive.

    For complex weights this is the sign of the real part. The signs take one byte for each entry, or, after a
    `MaskedSparse` in the same list of constraints, for each stored entry.

    Returns:
        A rule. It gives one sign for each entry, of the weight's shape.

    Raises:
        ValueError: When applied to a weight on the meta device.

    Example:
        >>> as_is()(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([-1,  1,  1], dtype=torch.int8)
    """
    return SignRule("as_is()", _as_is)


@by_signature
def dale(excitatory: float = 0.8, *, shuffle: bool = False, generator: Generator | None = None) -> SignRule:
    """Dale's law: all outgoing connections of a unit have one sign, which is that of its column in the weight.

    Song, Yang and Wang, *Training Excitatory-Inhibitory Recurrent Neural Networks for Cognitive Tasks*, 2016,
    PLOS Computational Biology 12(2).

    Args:
        excitatory: The share of positive columns, from 0 to 1: ``round(excitatory * columns)`` of them.
        shuffle: Whether to choose the positive columns at random. Otherwise they are the first ones.
        generator: The random number generator, on any device; torch's default one on the CPU if None. Seed it equally
            on all ranks.

    Returns:
        A rule for a matrix ``(out, in)``. It gives one sign for each column: ``(in,)``.

    Raises:
        ValueError: If ``excitatory`` is out of range; when applied, if the weight is not a matrix.

    Example:
        >>> dale(0.75)(torch.empty(2, 4))
        tensor([ 1,  1,  1, -1], dtype=torch.int8)
    """
    share = check_fraction("dale", excitatory)
    require_generator("dale", generator)
    return SignRule(f"dale({share}{', shuffle=True' * bool(shuffle)})", partial(_dale, share, shuffle, generator))


def _as_is(weight: Tensor) -> Tensor:
    require_values("as_is", weight)
    return torch.where(weight.real < 0, -1, 1).to(torch.int8)


def _dale(share: float, shuffle: bool, generator: Generator | None, weight: Tensor) -> Tensor:
    if weight.dim() != 2:
        raise ValueError(
            f"dale needs a matrix, (out, in). Got a weight of shape {tuple(weight.shape)}. Pass a tensor of signs that "
            "broadcasts to the weight, such as (in, 1, 1) for nn.Conv2d, or (in, 1, 1, 1) for nn.ConvTranspose2d."
        )
    columns = weight.shape[1]
    device = generator.device if generator is not None else torch.device("cpu")
    shuffled = partial(torch.randperm, generator=generator) if shuffle else torch.arange
    order = shuffled(columns, device=device)
    return torch.where(order < count_of(share, columns), 1, -1).to(torch.int8)
