"""`MaskRule`: a named choice of the kept entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from parametrizations.masks.arguments import Axes, as_axes, home
from parametrizations.masks.kept import Kept
from parametrizations.masks.pattern import Pattern

Build = Callable[[Tensor], Tensor | Pattern]


@dataclass(frozen=True, eq=False)
class MaskRule:
    """A named function from a weight to a mask of the same shape.

    A deep copy is the rule itself, so copies of one constraint share its `torch.Generator`, and draw different masks.

    Args:
        name: The text that `repr` shows.
        build: The function, from the weight to its mask: a boolean tensor, or a sparse one, whose specified entries are
            kept. It must not write into the weight.
        move: A function for `remask`, from `Kept` to the new row-major positions in the weight, ``(new,)``, in any
            order. It needs no dense weight. If it is None, `remask` calls ``build`` with the whole weight.
        spread: For a rule that looks at several weights at once: a function from a list of `Kept`, one for each weight
            that gets this rule in one call of `register` or `remask`, to a list of rules, one for each weight.
        has_axes: Whether the rule distinguishes outputs and inputs. If so, ``build`` gets the weight with these axes
            first, ``(out, in, *others)``, and may return a mask ``(out, in)``, which is repeated along the other axes.
        by_shape: Whether ``build`` reads only the shape of the weight. If so, it gets a tensor on the meta device, and
            may return a mask on any device. Such a rule works for weights that are too large to be dense.
        axes: The axes of outputs and inputs, such as ``(0, 1)`` for the channels of a convolution. None means
            ``(0, 1)`` for a matrix; for convolutions, `register` then supplies the axes.
        matrices: The number of equal blocks of rows, each with its own mask, such as 1 for `banded`. `register` warns
            unless it is a multiple of the number of weights that a layer stacks, such as 4 gates. None: no warning.

    Raises:
        TypeError: When applied, if the argument is not a tensor.
        ValueError: When applied, if ``has_axes`` and the axes are unknown, equal or out of range.

    Example:
        >>> import torch
        >>> checkerboard = MaskRule("checkerboard", lambda weight: torch.eye(2).repeat(2, 2).bool())
        >>> checkerboard(torch.zeros(4, 4)).int()
        tensor([[1, 0, 1, 0],
                [0, 1, 0, 1],
                [1, 0, 1, 0],
                [0, 1, 0, 1]], dtype=torch.int32)
    """

    name: str
    build: Build
    move: Callable[[Kept], Tensor] | None = None
    spread: Callable[[Sequence[Kept]], Sequence[MaskRule]] | None = None
    has_axes: bool = False
    axes: Axes = None
    matrices: int | None = None
    by_shape: bool = False

    def __call__(self, weight: Tensor) -> Tensor:
        """The boolean mask for a weight."""
        mask = self.pattern(weight).dense()
        return mask.to(home(weight))

    def pattern(self, weight: Tensor) -> Pattern:
        """The mask for a weight as positions. No dense tensor is created, unless the rule needs one."""
        if not isinstance(weight, Tensor):
            raise TypeError(f"{self} needs the weight, a tensor. Got {type(weight).__name__}. Pass e.g. layer.weight.")
        if self.by_shape:
            weight = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        axes = [*range(weight.dim())]
        if self.has_axes:
            first = known_axes(self.name, weight.shape, self.axes)
            axes = [*first, *(axis for axis in axes if axis not in first)]
        with torch.device("cpu") if self.by_shape else nullcontext():  # rules by shape ignore the default device
            found = Pattern.of(self._built(weight.permute(axes)), self)
        axes = axes[:2] if self.has_axes and len(found.shape) == 2 else axes
        found.require_shape(torch.Size([weight.shape[axis] for axis in axes]))
        return found.placed(weight.shape, axes)

    def _built(self, weight: Tensor) -> Tensor | Pattern:
        try:
            return self.build(weight)
        except RuntimeError as error:  # PyTorch's errors, such as those of weights without values, and of memory
            where = f"{' on the meta device' * weight.is_meta} of shape {tuple(weight.shape)}"
            raise ValueError(f"{self} cannot make a mask for a weight{where}: {error}") from error

    def with_axes(self, axes: Axes) -> MaskRule:
        """This rule with the given axes; the rule itself if it already has axes, or needs none."""
        return replace(self, axes=axes) if self.has_axes and self.axes is None and axes is not None else self

    def __deepcopy__(self, memo: dict[int, object]) -> MaskRule:
        return self

    def __repr__(self) -> str:
        return self.name

    def _combined(self, *_: object) -> NoReturn:
        raise TypeError(
            f"{self} needs a weight to be combined. Got &, | or ~ of the rule. Combine masks in a function: "
            "MaskedSparse(lambda weight: a(weight) & b(weight))."
        )

    __and__ = __rand__ = __or__ = __ror__ = __invert__ = _combined


def axis_rule(name: str, build: Build, axes: Axes, *, matrices: int | None = 1, by_shape: bool = True) -> MaskRule:
    """A rule that distinguishes outputs and inputs; for the arguments see `MaskRule`."""
    axes = as_axes(name, axes)
    shown = name if axes is None else f"{name.removesuffix(')')}, axes={axes})"
    return MaskRule(shown, build, has_axes=True, axes=axes, matrices=matrices, by_shape=by_shape)


def known_axes(name: str, shape: Sequence[int], axes: Axes) -> tuple[int, int]:
    """The axes of outputs and inputs, checked, as numbers from 0; (0, 1) for a matrix without ``axes``."""
    dims = len(shape)
    if dims < 2:
        raise ValueError(f"{name} needs a matrix, or a batch of matrices. Got shape {tuple(shape)}. Leave it out.")
    if axes is None and dims > 2:
        raise ValueError(
            f"{name} needs to know the axes of outputs and inputs. Got shape {tuple(shape)}. Pass axes=(out, in)."
        )
    first, second = axes or (0, 1)
    if not all(-dims <= axis < dims for axis in (first, second)) or first % dims == second % dims:
        raise ValueError(
            f"{name} needs two different axes of the weight. Got axes={axes} for shape {tuple(shape)}. Pass (out, in), "
            "such as (0, 1)."
        )
    return first % dims, second % dims


def individual(rules: Sequence[MaskRule], weights: Sequence[Kept]) -> list[MaskRule]:
    """A list with a rule for each weight. A rule with ``spread`` sees all of its weights, and returns their rules."""
    found = list(rules)
    for rule in dict.fromkeys(rules):
        if rule.spread is not None:
            indices = [index for index, other in enumerate(rules) if other is rule]
            own = list(rule.spread([weights[index] for index in indices]))
            _require_rules(rule, own, len(indices))
            for index, one in zip(indices, own, strict=True):
                found[index] = one
    return found


def _require_rules(rule: MaskRule, own: Sequence[object], weights: int) -> None:
    if len(own) != weights or not all(isinstance(one, MaskRule) for one in own):
        kinds = ", ".join(dict.fromkeys(type(one).__name__ for one in own))
        raise TypeError(
            f"{rule} needs to return a MaskRule for each of the {weights} weights. "
            f"Got {len(own)} of type {kinds or 'none'}. Let its `spread` return a list of rules."
        )
