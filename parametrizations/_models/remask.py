"""`remask`: change masks during training. Entries in both masks keep their optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from parametrizations._checks import by_signature
from parametrizations._mask_state import Name, as_positions, pattern_for
from parametrizations._models.agreement import require_agreement
from parametrizations._models.changes import Changes
from parametrizations._models.constrained import Slot, entries_of, identity, slots, tied_names
from parametrizations._models.inverses import Unreachable
from parametrizations._models.matching import Key, matches, naming, refuse_no_match, require_key, shown, with_values
from parametrizations._models.optimizers import moved_state, require_optimizer, require_states_by_entry
from parametrizations._models.sizes import require_present, require_room
from parametrizations._products.dense import fits
from parametrizations._torch.parameters import GATHER, is_sharded, replace_data
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.masks import Kept, MaskRule
from parametrizations.masks.arguments import Array, SparseArray
from parametrizations.masks.kept import Move
from parametrizations.masks.rule import individual
from parametrizations.signed import Signed

Model = TypeVar("Model", bound=nn.Module)
MaskRules = Mapping[Any, MaskRule | Callable[[Tensor], Tensor] | Tensor | Array | SparseArray | None]
"""Keys are strings and classes, as in `register`."""
Plan = Sequence[tuple[Slot, MaskRule]]

_ODD = (0x9E3779B97F4A7C15 - 2**64, 0x94D049BB133111EB - 2**64)
"""Multipliers of splitmix64 (Steele, Lea and Flood 2014), which spreads near positions far apart in `_digest`."""


@by_signature
def remask(model: Model, rules: MaskRules, *, optimizer: Optimizer | None) -> Model:
    """Give every `MaskedSparse` tensor with a matching name a new mask.

    On an error, the model and the optimizer do not change; random generators may have advanced.

    An entry in both the old and the new mask keeps its value, gradient and optimizer state, bit for bit. A new entry
    starts at 0, or at the nearest value that further constraints allow, with gradient 0 and fresh optimizer state. The
    number of entries may change, except under ``DistributedDataParallel``. Each parameter stays the same object, with
    its hooks and its place in the optimizer. State for all entries together, such as Adam's step count, does not
    change. No dense tensor is allocated, unless a rule or a further constraint needs one. Of the rules in `masks` that
    look at values, only `masks.n_of_m` needs one.

    Call ``backward`` on earlier losses first: their graphs refer to the old entries. In distributed training, every
    rank must call `remask`, with equally seeded generators. Pass the ``DistributedDataParallel`` object, not its
    module: the masks of all ranks are then compared before anything changes.

    Args:
        model: Changed in place.
        rules: Maps each key to the new mask: a rule of `parametrizations.masks`; a boolean or sparse tensor of the
            weight's shape, ``(out, in)``; or a function from the weight to such a tensor. None excludes. Keys are those
            of `register`, and match only tensors with a mask. Rules see the weight after all its parametrizations.
        optimizer: The optimizer of these parameters; its state moves with the entries. With None, no state moves: then
            make a new optimizer, because the old one would apply its state to other entries, and a fused one would
            write out of bounds. If there are several, call `remask` once for each, with patterns of its parameters.

    Returns:
        The same model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a key matches no tensor with a mask, or two keys match one tensor; if separately constrained
            tensors share a parameter; if a parameter is sharded over processes, or has NaN or infinite entries; if a
            rule refuses the weight, or returns an invalid mask; if later parametrizations cannot hold with the new
            mask; if the optimizer has none of the parameters, or state other than one number for each entry or one for
            all; if ranks have different masks, or a model in ``DistributedDataParallel`` would get another number of
            entries.

    Example:
        >>> from parametrizations import MaskedSparse, masks, register
        >>> model = register(nn.Sequential(nn.Linear(8, 8)), {"0.weight": MaskedSparse(masks.random(density=0.5))})
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> model(torch.ones(2, 8)).sum().backward()
        >>> optimizer.step()
        >>> _ = remask(model, {"0.weight": masks.magnitude(density=0.25)}, optimizer=optimizer)
        >>> x = model[0].parametrizations.weight.original
        >>> x.shape, optimizer.state[x]["exp_avg"].shape
        (torch.Size([16]), torch.Size([16]))
    """
    plan = _plan(model, rules)
    require_optimizer(optimizer, "remask", {slot.name: slot.first_stored for slot, _ in plan})
    if optimizer is not None:
        for slot, _ in plan:
            require_states_by_entry(optimizer, slot.name, slot.first_stored)
    changes, positions = Changes(), {}
    with torch.inference_mode(False), torch.no_grad():
        for slot, rule, new, move in _chosen(plan):
            positions[slot.name] = new
            _collect(changes, slot, rule, new, move, optimizer)
        _require_same_masks(model, positions, {slot.name: slot.first_stored.numel() for slot, _ in plan})
        changes.commit()
    return model


def _mask_of(slot: Slot) -> MaskedSparse:
    sparse = slot.steps[0]
    assert isinstance(sparse, MaskedSparse)
    return sparse


def _plan(model: nn.Module, rules: MaskRules) -> Plan:
    """Pairs of a slot and its mask rule, after all checks that do not need the new mask."""
    if not isinstance(model, nn.Module) or not isinstance(rules, Mapping):
        raise TypeError(
            "remask needs a model and a mapping from names to mask rules. "
            f"Got {type(model).__name__} and {type(rules).__name__}. "
            'Pass e.g. (model, {"encoder.*.weight": masks.magnitude(density=0.1)}).'
        )
    every = slots(model)
    masked = [slot for slot in every if slot.steps and isinstance(slot.steps[0], MaskedSparse)]
    plan = with_values(
        "remask",
        masked,
        {key: _rule(key, value) for key, value in rules.items()},
        partial(_no_match, masked, every),
        "Narrow one of them.",
    )
    require_present([slot for slot, _ in plan], "remask", model)
    tied = tied_names(every) if plan else {}
    for slot, _ in plan:
        _require_movable(slot, tied)
    return plan


def _rule(key: Key, value: object) -> MaskRule | None:
    require_key("remask", key)
    if value is None:  # the key excludes its matches
        return None
    if isinstance(value, nn.Module | type):
        got = type(value).__name__ if isinstance(value, nn.Module) else f"the class {value.__name__}"
        raise TypeError(
            f"remask needs a mask rule for {shown(key)}. Got {got}. Pass the rule or the mask itself, without "
            "MaskedSparse."
        )
    made: Any = value
    try:
        rule = MaskedSparse(made).rule
    except (TypeError, ValueError) as error:
        raise type(error)(f"remask cannot make a mask for {shown(key)}. {error}") from error
    assert rule is not None
    return rule


def _no_match(masked: Sequence[Slot], every: Sequence[Slot], key: Key) -> NoReturn:
    others = matches(key, every)
    if others:
        got, advice = (
            ("constrained, but without a mask", "Bake it, and register")
            if others[0].steps
            else ("which has no mask yet", "Register")
        )
        raise ValueError(
            f"remask needs a tensor with a mask for {shown(key)}. Got {others[0].name!r}, {got}. {advice} a mask: "
            f"register(model, {{{others[0].name!r}: MaskedSparse(...)}})."
        )
    refuse_no_match("remask", "tensor with a mask", key, masked)


def _require_movable(slot: Slot, tied: Mapping[object, Sequence[str]]) -> None:
    stored = slot.first_stored
    owners = tied.get(identity(stored))
    if owners is not None:
        raise ValueError(
            f"remask needs an untied tensor. Got one stored tensor for {', '.join(map(repr, owners))}. "
            "Bake the model, which gives each its own parameter, and register it again."
        )
    if any(isinstance(step, Signed) and step.is_per_entry for step in slot.steps):
        raise ValueError(
            f"remask needs signs for all entries of {slot.name!r}. Got {slot.kinds}, with a sign for each entry of the "
            "old mask. Bake this tensor, and register it again with a sign for each: "
            "Signed(torch.where(weight < 0, -1, 1))."
        )
    if is_sharded(stored):
        raise ValueError(
            f"remask needs an unsharded stored tensor for {slot.name!r}. Got a {type(stored).__name__}. {GATHER}, load "
            "it into an unsharded model, call remask there, and shard that model."
        )
    if not stored.is_meta and not bool(stored.detach().isfinite().all()):
        raise ValueError(
            f"remask needs a finite weight to choose from. Got {slot.name!r} with "
            f"{int((~stored.isfinite()).sum())} of {stored.numel()} stored numbers NaN or infinite. Restore an "
            "earlier checkpoint."
        )


def _chosen(plan: Plan) -> Iterator[tuple[Slot, MaskRule, Tensor, Move]]:
    """For each tensor: its `Slot`, a rule for it alone, the new mask's sorted positions, and the `Move` to them."""
    before = [_mask_of(slot).positions for slot, _ in plan]
    kept = [_kept(slot, positions) for (slot, _), positions in zip(plan, before, strict=True)]
    rules = individual([rule for _, rule in plan], kept)
    for (slot, _), old, one, rule in zip(plan, before, kept, rules, strict=True):
        own = rule.with_axes(slot.axes)
        with naming("remask", f"change the mask of {slot.name!r}"):
            yield slot, own, *_moved(slot, old, one, own)


def _kept(slot: Slot, positions: Tensor) -> Kept:
    values = slot.first_stored
    if len(slot.steps) > 1:
        entries = entries_of(slot.chain)
        values = _weight(slot).flatten().index_select(0, positions) if entries is None else entries
    return Kept(slot.name, slot.shape, values, positions, axes=slot.axes)


def _weight(slot: Slot) -> Tensor:
    require_room([slot], "remask")
    return slot.materialised()


def _moved(slot: Slot, old: Tensor, kept: Kept, rule: MaskRule) -> tuple[Tensor, Move]:
    """The sorted positions of the new mask, and the `Move` from the old positions to them.

    A rule without ``move`` gets the dense weight; or a meta tensor, if it reads only the shape or memory is too small.
    """
    if rule.move is not None:
        new = as_positions(rule, rule.move(kept), kept.shape.numel()).to(old)
    else:
        by_shape = rule.by_shape or not fits(kept.shape.numel(), slot.first_stored)
        weight = torch.empty(kept.shape, device="meta") if by_shape else _weight(slot)
        new = pattern_for(rule, weight).positions.to(old)
    return new, Move.between(old, new)


def _collect(
    changes: Changes, slot: Slot, rule: MaskRule, positions: Tensor, move: Move, optimizer: Optimizer | None
) -> None:
    """Collect the changes of one tensor: new mask, stored values, gradient and optimizer state."""
    stored, sparse = slot.first_stored, _mask_of(slot)
    with naming("remask", f"change the mask of {slot.name!r}"):
        values = _started(slot, positions, move.of(stored), move.stays.to(stored.device))
    for name, value in sparse._with_positions(positions, Name(rule.name)).items():
        changes.attribute(sparse, name, value)
    changes.data(stored, values, None if stored.grad is None else move.of(stored.grad))
    if optimizer is not None and stored in optimizer.state:
        changes.draft(optimizer.state)[stored] = moved_state(optimizer, stored, move)


def _started(slot: Slot, positions: Tensor, values: Tensor, stays: Tensor) -> Tensor:
    """The stored values for a mask with these ``positions``; entries with ``stays`` keep their ``values``.

    Any other entry starts at the number nearest to 0 that the later parametrizations allow, or at 0 if a third-party
    parametrization refuses the weight. If a later parametrization needs the dense weight, `require_agreement` checks a
    copy of the chain with the new mask.
    """
    if len(slot.steps) == 1:
        return values
    twin = slot.copied()
    vars(twin.steps[0]).update(_mask_of(twin)._with_positions(positions, None))
    replace_data(twin.first_stored, values)
    entries = entries_of(twin.chain)
    nearest = None if entries is None else twin.inverted_entries(entries.where(stays, 0))
    if nearest is not None:  # the later constraints act on each kept entry alone, so they allow this mask
        return torch.where(stays, values, nearest)
    require_room([twin], "remask", "Keep the entries that the later constraints need, such as the whole diagonal.")
    weight = twin.materialised()
    if not stays.all():
        weight.view(-1).index_fill_(0, positions[~stays].long(), 0)
        with suppress(Unreachable):
            (nearest,) = twin.inverted(weight, project=True).values()
            values = torch.where(stays, values, nearest)
            replace_data(twin.first_stored, values)
            weight = twin.materialised()
    require_agreement(twin, weight)
    return values


def _require_same_masks(model: nn.Module, positions: Mapping[str, Tensor], before: Mapping[str, int]) -> None:
    """Under ``DistributedDataParallel``, require equal masks on all ranks, with as many entries as before.

    If any two masks differ, or the number of entries changes, every rank raises the error.
    """
    wrapper = next((part for part in model.modules() if isinstance(part, DistributedDataParallel)), None)
    if wrapper is None:
        return
    own = [_digest(places) for places in positions.values()]
    all_ranks: list[Sequence[int]] = [own] * dist.get_world_size(wrapper.process_group)
    dist.all_gather_object(all_ranks, own, group=wrapper.process_group)
    differing = [
        name for name, digests in zip(positions, zip(*all_ranks, strict=True), strict=True) if len({*digests}) > 1
    ]
    if differing:
        raise ValueError(
            f"remask needs the same mask on every rank. Got different ones for {', '.join(map(repr, differing))}. Seed "
            "the rule's generator alike on every rank."
        )
    for name, places in positions.items():
        if places.numel() != before[name]:
            raise ValueError(
                "remask needs as many entries as before while DistributedDataParallel wraps the model, since its "
                f"buckets have the old sizes. Got {places.numel()} instead of {before[name]} for {name!r}. Remask the "
                "wrapped `module`, and wrap it again."
            )


def _digest(positions: Tensor) -> int:
    mixed = (positions.long() + 1) * _ODD[0]
    mixed = (mixed ^ (mixed >> 29)) * _ODD[1]
    return int((mixed ^ (mixed >> 32)).sum())
