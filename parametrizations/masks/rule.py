"""`MaskRule`: a named choice of the kept entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from parametrizations.masks.kept import Kept

__all__ = ["MaskRule", "individual"]


@dataclass(frozen=True, eq=False)
class MaskRule:
    """A named function from a weight, ``(out, in)``, to a boolean mask of the same shape.

    Copies share the rule, and so a `torch.Generator` in it: layers with copies of one parametrization draw different
    masks.

    Args:
        name: The text that `repr` shows.
        build: The function.
        move: For `remask`, to decide by the kept entries alone: a function from `Kept`, in which a kept entry may be
            0, to the new row-major positions in the weight, in any order. Without it, ``build`` gets the whole weight.
        spread: For a rule that looks at several weights at once: a function from all the weights that get this rule in
            one call of `register` or `remask`, to a rule for each of them.

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
    build: Callable[[Tensor], Tensor]
    move: Callable[[Kept], Tensor] | None = None
    spread: Callable[[Sequence[Kept]], Sequence[MaskRule]] | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        """The mask for a weight, ``(out, in)``."""
        return self.build(weight)

    def __deepcopy__(self, memo: dict[int, object]) -> MaskRule:
        return self

    def __repr__(self) -> str:
        return self.name


def individual(rules: Sequence[MaskRule], weights: Sequence[Kept]) -> list[MaskRule]:
    """A rule for each weight. A rule with ``spread`` sees all of its weights, and returns the rules for them."""
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
