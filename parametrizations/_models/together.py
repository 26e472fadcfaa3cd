"""Mask rules that look at several weights together."""

from __future__ import annotations

from collections.abc import Sequence

from parametrizations.masks import Kept, MaskRule

__all__ = ["individual"]


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
            f"{rule} needs to give a MaskRule for each of the {weights} weights that it is shown. "
            f"Got {len(own)} of type {kinds or 'none'}. Let its `spread` return a list of rules."
        )
