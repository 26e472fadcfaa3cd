"""Masks that move during training: the smallest entries go, and as many others come.

Both rules choose ``round(fraction * kept)`` entries to go, `evolutionary` at most as many as are outside the mask. The
docstring of `remask` says at which value a new entry starts. `rigl` may choose an entry both to go and to come in one
update: it stays, with its value and optimizer state.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NoReturn, Protocol

import torch
from torch import Generator, Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import check_fraction, require_generator, require_values
from parametrizations.masks.chance import drawn, merged
from parametrizations.masks.kept import Kept
from parametrizations.masks.rule import MaskRule
from parametrizations.masks.values import largest

ROOM = 2**20
"""The number of entries of a dense gradient in one strip of rows."""


class Gradient(Protocol):
    """A dense gradient with the shape of the weight; a slice of its rows, ``gradient[0:64]``, is a tensor."""

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight."""
        ...

    def __getitem__(self, rows: slice) -> Tensor: ...


@by_signature
def evolutionary(fraction: float, *, generator: Generator | None = None) -> MaskRule:
    """Sparse evolutionary training (SET): drop the smallest kept entries, and keep as many random new ones.

    Mocanu et al., *Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity inspired by
    Network Science*, 2018, arXiv 1707.04780. The paper drops the fraction among the positive and among the negative
    entries; here, as in most later work, the smallest of all kept entries by absolute value go. New entries come from
    outside the old mask, so exactly this fraction changes, or less if too few entries are outside.

    Args:
        fraction: The part of the kept entries that moves, from 0 to 1, such as ``cosine(0.3, steps=1000)(step)``.
        generator: A random number generator on any device, or None for torch's own. Seed it equally on all ranks.

    Returns:
        A rule for `remask`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``fraction`` is out of range; when applied to a weight without a mask.

    Example:
        >>> from torch import nn
        >>> from parametrizations import MaskedSparse, masks, register, remask
        >>> layer = register(nn.Linear(8, 8), {"weight": MaskedSparse(masks.random(density=0.25))})
        >>> before = layer.parametrizations.weight[0].mask
        >>> _ = remask(layer, {"weight": masks.evolutionary(0.5)}, optimizer=None)
        >>> int((before & layer.parametrizations.weight[0].mask).sum())  # of 16
        8
    """
    name = f"evolutionary({check_fraction('evolutionary', fraction)})"
    require_generator("evolutionary", generator)
    return MaskRule(name, partial(_no_mask_yet, name), partial(_evolve, name, float(fraction), generator))


@by_signature
def rigl(fraction: float, gradients: Mapping[str, Gradient]) -> MaskRule:
    """RigL: drop the smallest kept entries, and keep as many others, with the largest dense gradients.

    Evci et al., *Rigging the Lottery: Making All Tickets Winners*, 2020, arXiv 1911.11134. As in the paper, a dropped
    entry with a large gradient may be chosen again at once. The entry then keeps its value, as in the authors' code;
    the paper sets the value to zero. A gradient is read in strips of rows, never as a whole.

    Args:
        fraction: The part of the kept entries that moves, from 0 to 1, such as ``cosine(0.3, steps=1000)(step)``.
        gradients: Maps the name of each weight to its dense gradient, ``(out, in)``: of `dense_gradients`, or tensors.

    Returns:
        A rule for `remask`.

    Raises:
        TypeError: If ``fraction`` is not a number, or ``gradients`` not a mapping.
        ValueError: If ``fraction`` is out of range; when applied to a weight without a mask, or if its gradient is
            missing, of another shape, or not finite.

    Example:
        >>> from torch import nn
        >>> from parametrizations import MaskedSparse, dense_gradients, masks, register, remask
        >>> layer = register(nn.Linear(8, 8), {"weight": MaskedSparse(masks.random(density=0.25))})
        >>> with dense_gradients(layer, "weight") as gradients:
        ...     layer(torch.randn(4, 8)).square().sum().backward()
        >>> _ = remask(layer, {"weight": masks.rigl(0.5, gradients)}, optimizer=None)
        >>> layer.parametrizations.weight.original.shape
        torch.Size([16])
    """
    name = f"rigl({check_fraction('rigl', fraction)})"
    if not isinstance(gradients, Mapping):
        raise TypeError(
            f"rigl needs dense gradients by the names of weights. Got {type(gradients).__name__}. "
            "Take them from `with dense_gradients(model, patterns) as gradients`."
        )
    return MaskRule(name, partial(_no_mask_yet, name), partial(_rig, name, float(fraction), gradients))


def _no_mask_yet(name: str, weight: Tensor) -> NoReturn:
    raise ValueError(
        f"{name} changes an existing mask. Got a weight of shape {tuple(weight.shape)} without a mask. Register a mask "
        "first, such as MaskedSparse(masks.random(density=0.1)), and then pass this rule to remask."
    )


def _evolve(name: str, fraction: float, generator: Generator | None, kept: Kept) -> Tensor:
    places, empty = kept.positions, kept.shape.numel() - kept.count
    moving = min(round(fraction * kept.count), empty)
    require_values(name, kept.entries)
    (stays,) = largest([kept.entries], kept.count - moving)
    ranks = drawn(moving, empty, generator).to(places.device)  # among the positions outside the mask
    others_before = places - torch.arange(places.numel(), device=places.device)
    return merged(places[stays], ranks + torch.searchsorted(others_before, ranks, right=True))


def _rig(name: str, fraction: float, gradients: Mapping[str, Gradient], kept: Kept) -> Tensor:
    require_values(name, kept.entries)
    moving = round(fraction * kept.count)
    (stays,) = largest([kept.entries], kept.count - moving)
    staying = kept.positions[stays]
    return torch.cat([staying, _steepest(name, _gradient(name, gradients, kept), staying, moving, kept)])


def _gradient(name: str, gradients: Mapping[str, Gradient], kept: Kept) -> Gradient:
    if kept.name not in gradients:
        there = f"those of {', '.join(map(repr, gradients))}" if gradients else "none"
        raise ValueError(
            f"{name} needs the dense gradient of {kept.name!r}. Got {there}. Take them from `with "
            "dense_gradients(model) as gradients` with this model; the grad of a stored tensor is not dense."
        )
    gradient = gradients[kept.name]
    shape = getattr(gradient, "shape", None)  # a user may pass weight.grad, None for a constrained weight
    if shape != kept.shape:
        raise ValueError(
            f"{name} needs a dense gradient of shape {tuple(kept.shape)} for {kept.name!r}. "
            f"Got {shape if shape is None else tuple(shape)}. Take it from dense_gradients; the gradient of the stored "
            "entries is not enough. rigl cannot be a rule for per_block, since this gradient is for the whole weight."
        )
    return gradient


def _steepest(name: str, gradient: Gradient, staying: Tensor, count: int, kept: Kept) -> Tensor:
    """The ``count`` positions with the largest absolute gradients outside the sorted positions ``staying``."""
    rows, columns = kept.shape[0], kept.shape[1:].numel()
    strip = max(ROOM // max(columns, 1), 1)
    sizes = kept.entries[:0].abs()
    places = staying.new_empty(0)
    for first in range(0, rows if count else 0, strip):
        found = gradient[first : first + strip].to(staying.device).abs().flatten()
        _require_finite(name, found, kept.name)
        ends = torch.tensor([first * columns, first * columns + found.numel()], device=staying.device)
        low, high = torch.searchsorted(staying, ends).tolist()
        found[staying[low:high] - first * columns] = -1
        if sizes.numel() < count:
            better = found.topk(min(count, found.numel() - (high - low)), sorted=False).indices
        else:
            better = (found > sizes.min()).nonzero().squeeze(1)
        sizes, places = torch.cat([sizes, found[better]]), torch.cat([places, better + first * columns])
        best = sizes.topk(min(count, sizes.numel()), sorted=False).indices
        sizes, places = sizes[best], places[best]
    return places


def _require_finite(name: str, sizes: Tensor, weight: str) -> None:
    if sizes.numel() and not bool(sizes.max().isfinite()):
        raise ValueError(
            f"{name} needs a finite dense gradient of {weight!r}. Got one with NaN or infinity. Skip this update, "
            "as GradScaler skips the step."
        )
