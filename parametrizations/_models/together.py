"""A mask rule for each weight, where one rule looks at several weights at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from parametrizations._models.places import Place
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.masks import Kept, MaskRule

__all__ = ["individual", "with_own_rules"]

Plan = Sequence[tuple[Place, Sequence[nn.Module]]]


def individual(rules: Sequence[MaskRule], shown: Sequence[Callable[[], Kept]]) -> list[MaskRule]:
    """The rule of each weight: the one that it was given, or what that one has for it after seeing all of its weights.

    Args:
        rules: One for each weight; the same object where they are to be looked at together.
        shown: What gives each weight, called where a rule looks at several.
    """
    found = list(rules)
    for rule in dict.fromkeys(rules):
        if rule.spread is not None:
            places = [place for place, other in enumerate(rules) if other is rule]
            for place, own in zip(places, _spread(rule, [shown[place]() for place in places]), strict=True):
                found[place] = own
    return found


def _spread(rule: MaskRule, weights: Sequence[Kept]) -> Sequence[MaskRule]:
    assert rule.spread is not None
    own = list(rule.spread(weights))
    if len(own) != len(weights) or not all(isinstance(one, MaskRule) for one in own):
        kinds = ", ".join(dict.fromkeys(type(one).__name__ for one in own))
        raise TypeError(
            f"{rule} needs to give a MaskRule for each of the {len(weights)} weights that it is shown. "
            f"Got {len(own)} of type {kinds or 'none'}. Let its `spread` return a list of rules."
        )
    return own


def with_own_rules(plan: Plan) -> Plan:
    """The same plan, where each `MaskedSparse` has a rule of its own though one rule looks at several weights."""
    own = [(place, list(chain)) for place, chain in plan]
    seats = [
        (place, chain, at, step, step.rule)
        for place, chain in own
        for at, step in enumerate(chain)
        if isinstance(step, MaskedSparse) and step.rule is not None and step.rule.spread is not None
    ]
    shown = [partial(_shown, place) for place, *_ in seats]
    rules = individual([rule for *_, rule in seats], shown)
    for (_, chain, at, step, _), rule in zip(seats, rules, strict=True):
        chain[at] = step._with_rule(rule)
    return own


def _shown(place: Place) -> Kept:
    return Kept.whole(getattr(place.module, place.tensor_name).data, place.name)
