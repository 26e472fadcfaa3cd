"""Conversion of the ``mask`` argument of `MaskedSparse` to a rule, and of the result of a rule to a mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from parametrizations import masks
from parametrizations._products.operands import index_dtype
from parametrizations._torch.arrays import from_array, is_array
from parametrizations.masks import MaskRule


class Name(str):
    """A string with a `repr` without quotes. It replaces a used rule, which may contain a large mask."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True, eq=False)
class Given:
    """A rule that returns a given mask. Unlike a closure, it can be pickled."""

    mask: Tensor

    def __call__(self, weight: Tensor) -> Tensor:  # noqa: ARG002
        return self.mask


def as_rule(mask: object) -> MaskRule:
    """The rule itself, or a new rule for a mask or a function."""
    if isinstance(mask, Tensor) or is_array(mask):
        given = as_mask(mask, None).clone()
        return MaskRule(f"tensor of shape {tuple(given.shape)}", Given(given))
    if isinstance(mask, MaskRule):
        return mask
    if not callable(mask):
        raise TypeError(
            f"MaskedSparse needs a boolean tensor or a mask rule. Got {type(mask).__name__}. {_advice(mask)}."
        )
    if inspect.isfunction(mask) and mask.__module__.startswith(masks.__name__):
        options = inspect.signature(mask).parameters
        needed = "..." if any(option.default is option.empty for option in options.values()) else ""
        raise TypeError(
            f"MaskedSparse needs a mask rule. Got the function masks.{mask.__name__}, which makes one. "
            f"Write masks.{mask.__name__}({'density=0.1' if 'density' in options else needed})."
        )
    _require_one_argument(mask)
    return MaskRule(getattr(mask, "__name__", type(mask).__name__), mask)


def _require_one_argument(mask: Callable[..., object]) -> None:
    name = getattr(mask, "__name__", type(mask).__name__)
    try:
        inspect.signature(mask).bind(None)
    except TypeError as error:
        raise TypeError(
            f"MaskedSparse needs a rule for the weight. Got {name}: {error}. Write e.g. lambda weight: weight != 0."
        ) from None
    except ValueError:  # a builtin without a signature
        pass


def _advice(mask: object) -> str:
    if isinstance(mask, float):
        return "Pass a rule, such as masks.magnitude(density=0.1)"
    if hasattr(mask, "toarray"):  # of SciPy
        return "Pass mask.toarray() != 0"
    if isinstance(mask, list | tuple):
        return "Pass torch.tensor(mask)"
    return "Pass a rule, such as one of parametrizations.masks; for pairs of units, masks.from_edges(pairs)"


def as_mask(mask: object, shape: torch.Size | None, rule: MaskRule | None = None) -> Tensor:
    """The mask as a tensor, returned by a rule if one is given. Refuses another shape, and a scalar."""
    mask = from_array(mask) if is_array(mask) else mask
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        got = getattr(mask, "dtype", type(mask).__name__)
        advice = "Pass e.g. `mask != 0`" if rule is None else "Return a boolean tensor of the weight's shape"
        source = "" if rule is None else f" from the rule {rule}"
        raise TypeError(f"MaskedSparse needs a mask of dtype torch.bool{source}. Got {got}. {advice}.")
    if mask.is_meta or mask.layout is not torch.strided:
        advice = "Make the mask on the CPU" if mask.is_meta else "Pass mask.to_dense()"
        raise ValueError(
            f"MaskedSparse needs a dense mask with values. Got one of layout {mask.layout} on {mask.device}. {advice}."
        )
    if mask.dim() == 0 or shape not in (None, mask.shape):
        expected = "at least 1 dimension" if shape is None else f"the weight's shape, {tuple(shape)}"
        raise ValueError(
            f"MaskedSparse needs a mask of {expected}. Got shape {tuple(mask.shape)}. True keeps an entry."
        )
    return mask


def as_positions(rule: MaskRule, positions: object, entries: int) -> Tensor:
    """The positions that a rule returns, sorted and checked."""
    whole = isinstance(positions, Tensor) and positions.dtype in (torch.int32, torch.int64) and positions.dim() == 1
    if not isinstance(positions, Tensor) or not whole or positions.is_meta:
        got = type(positions).__name__
        if isinstance(positions, Tensor):
            got = f"{positions.dtype} of shape {tuple(positions.shape)} on {positions.device}"
        raise TypeError(f"{rule} needs to choose positions: one row of whole numbers. Got {got}. See MaskRule.")
    outside = positions.numel() > 0 and not (int(positions.min()) >= 0 and int(positions.max()) < entries)
    found = positions if outside else positions.to(index_dtype(entries))
    found = found if _is_rising(found) else found.sort(stable=True).values
    if outside or not _is_rising(found):
        raise ValueError(
            f"{rule} needs to choose positions from 0 to {entries - 1}, each once. Got some that are repeated or out "
            "of range. A position is row * columns + column."
        )
    return found


def _is_rising(positions: Tensor) -> bool:
    return bool((positions[1:] > positions[:-1]).all())
