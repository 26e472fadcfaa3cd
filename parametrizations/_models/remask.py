"""`remask`: a mask that moves while a model is trained, with its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

from parametrizations._models.agreement import require_agreement
from parametrizations._models.matching import Key, Names, matches, named_places, refuse_no_match
from parametrizations._models.moving_entries import Move, moved_state, require_states_by_entry
from parametrizations._models.optimizers import require_optimizer
from parametrizations._models.places import Place, identity, owners
from parametrizations._models.ranks import require_same_masks, wrapper_in
from parametrizations._models.rollback import all_or_nothing
from parametrizations._models.sizes import require_room
from parametrizations._models.together import individual
from parametrizations._products.operands import index_dtype
from parametrizations._torch.arrays import Array
from parametrizations._torch.chains import build, chain_of, chains, copied, originals, steps
from parametrizations._torch.loops import forget
from parametrizations._torch.parameters import give
from parametrizations._torch.sharding import GATHER, is_sharded
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.masks import Kept, MaskRule
from parametrizations.masks.rule import Swap

__all__ = ["MaskRules", "remask"]

Model = TypeVar("Model", bound=nn.Module)
MaskRules = Mapping[str, MaskRule | Callable[[Tensor], Tensor] | Tensor | Array]


def remask(model: Model, rules: MaskRules, *, optimizer: Optimizer | None) -> Model:
    """Give every `MaskedSparse` tensor whose name matches a pattern a new mask. On an error, nothing changes.

    A kept entry that stays keeps its value, its gradient and its optimizer state, bit for bit. A new entry starts at 0,
    with gradient 0 and fresh optimizer state. The number of entries may change. Each parameter stays the same object,
    with its hooks and its place in the optimizer. State that belongs to all entries together, such as Adam's step
    count, stays. No dense tensor is allocated, unless a rule needs one. The rules of `parametrizations.masks` that look
    at values use the kept entries alone, except `masks.n_of_m`.

    Call ``backward`` on earlier losses first: their graphs refer to the old entries. On several machines every rank
    must call it, with generators that have the same seed. Pass the ``DistributedDataParallel`` object, not its module:
    the masks of all ranks are then compared before anything changes.

    Args:
        model: Changed in place.
        rules: Maps each pattern to the new mask: a rule of `parametrizations.masks`, a function that takes the weight,
            ``(out, in)``, and returns a boolean tensor of its shape, or such a tensor. Patterns are those of
            `register`, and match only tensors with a mask. If other parametrizations are applied on top of the mask,
            rules see the final weight.
        optimizer: The optimizer of these parameters; its state moves with the entries. With None no state is moved:
            then make a new optimizer, because the old one would apply its state to other entries, and a fused one would
            write out of bounds if the number of entries has changed. With several optimizers, call once for each,
            with the patterns of its parameters.

    Returns:
        The same model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a pattern matches no tensor with a mask, or two match one; if a parameter is tied (it has two
            owners), sharded over processes, or not finite; if a rule refuses the weight, or returns an invalid mask; if
            the parametrizations on top cannot hold with the new mask; if the optimizer has none of the parameters, or
            state that is neither one number for each entry nor one for all; if ranks have different masks, or a model
            wrapped by ``DistributedDataParallel`` would have another number of entries than before.

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
    if optimizer is not None:
        stored = {place.name: _masked(place).stored for place, _ in plan}
        require_optimizer(optimizer, "remask", stored)
        for name, tensor in stored.items():
            require_states_by_entry(optimizer, name, tensor)
    modules = dict.fromkeys(place.module for place, _ in plan)
    with all_or_nothing(modules, optimizer, rules.values()), torch.inference_mode(False), torch.no_grad():
        changes = [_change(*chosen, optimizer) for chosen in _chosen(plan)]
        _require_same_everywhere(model, changes)
        for change in changes:
            _make(change, optimizer)
        forget()
        return model


class _Masked(NamedTuple):
    """A tensor with a mask, by its parts."""

    chain: ParametrizationList
    sparse: MaskedSparse
    stored: Tensor


class _Change(NamedTuple):
    """All that is to take the place of what is there."""

    name: str
    masked: _Masked
    origin: str
    positions: Tensor
    values: Tensor
    gradient: Tensor | None
    state: dict[str, Any]


def _masked(place: Place) -> _Masked:
    chain = chain_of(place.module, place.tensor_name)
    sparse = steps(chain)[0]
    assert isinstance(sparse, MaskedSparse)
    return _Masked(chain, sparse, originals(chain)["original"])


def _has_mask(place: Place) -> bool:
    chain = chains(place.module).get(place.tensor_name)
    return chain is not None and isinstance(steps(chain)[0], MaskedSparse)


def _plan(model: nn.Module, rules: MaskRules) -> list[tuple[Place, MaskRule]]:
    """Which tensors get a new mask by which rule; what can be refused before a rule is asked is refused here."""
    if not isinstance(model, nn.Module) or not isinstance(rules, Mapping):
        raise TypeError(
            "remask needs a model and a mapping from names to mask rules. "
            f"Got {type(model).__name__} and {type(rules).__name__}. "
            'Pass e.g. (model, {"encoder.*.weight": masks.magnitude(density=0.1)}).'
        )
    every = named_places(model)
    names = {key: places for key, places in every.items() if _has_mask(places[0])}
    matched: dict[Key, str] = {}
    plan: list[tuple[Place, MaskRule]] = []
    for pattern, value in rules.items():
        rule = _rule(pattern, value)
        for key in matches(pattern, names) or _no_match(pattern, names, every):
            if key in matched:
                raise ValueError(
                    f"remask needs one rule for each tensor. Got two for {names[key][0].name!r}: {matched[key]!r} and "
                    f"{pattern!r}. Narrow one of them."
                )
            matched[key] = pattern
            plan.append((names[key][0], rule))
    _require_movable(model, [place for place, _ in plan])
    return plan


def _rule(pattern: object, value: object) -> MaskRule:
    if not isinstance(pattern, str):
        raise TypeError(f"remask needs names, or patterns of them, as keys. Got {type(pattern).__name__}.")
    if isinstance(value, nn.Module | type):
        got = type(value).__name__ if isinstance(value, nn.Module) else f"the class {value.__name__}"
        raise TypeError(
            f"remask needs a mask rule for {pattern!r}. Got {got}. Pass the rule or the mask itself, without "
            "MaskedSparse."
        )
    made: Any = value
    try:
        rule = MaskedSparse(made).rule
    except (TypeError, ValueError) as error:
        raise type(error)(f"remask cannot make a mask for {pattern!r}. {error}") from error
    assert rule is not None
    return rule


def _no_match(pattern: str, names: Names, every: Names) -> Sequence[Key]:
    others = matches(pattern, every)
    if others:
        raise ValueError(
            f"remask needs a tensor with a mask for {pattern!r}. Got {every[others[0]][0].name!r}, whose first "
            "parametrization is no MaskedSparse. Attach one first: register(model, {...: MaskedSparse(...)})."
        )
    refuse_no_match("remask", "tensor with a mask", pattern, names)


def _require_movable(model: nn.Module, places: Sequence[Place]) -> None:
    names = owners(model) if places else {}
    for place in places:
        stored = _masked(place).stored
        tied = names[identity(stored)]
        if len(tied) > 1:
            raise ValueError(
                f"remask needs a tensor with one owner. Got one that is tied: {', '.join(map(repr, tied))} share what "
                "is stored, and would come apart. Untie them first."
            )
        if is_sharded(stored):
            raise ValueError(
                f"remask needs what is stored for {place.name!r} in one piece. Got a {type(stored).__name__}, sharded "
                f"over processes. {GATHER}, move the masks of an unsharded model that loads it, and shard that."
            )
        if not stored.is_meta and not bool(stored.isfinite().all()):
            raise ValueError(
                f"remask needs a finite weight to choose from. Got {place.name!r} with "
                f"{int((~stored.isfinite()).sum())} of {stored.numel()} stored numbers NaN or infinite. Restore an "
                "earlier checkpoint."
            )


def _chosen(plan: Sequence[tuple[Place, MaskRule]]) -> Iterator[tuple[Place, MaskRule, Tensor, Move]]:
    """For each tensor its own rule, the sorted positions that this rule chooses, and the move to them."""
    before = [_masked(place).sparse.positions for place, _ in plan]
    kept = [_kept(place, positions) for (place, _), positions in zip(plan, before, strict=True)]
    rules = individual([rule for _, rule in plan], [partial(_itself, one) for one in kept])
    for (place, _), old, one, rule in zip(plan, before, kept, rules, strict=True):
        with _about(place):
            yield place, rule, *_moved(place, old, one, rule)


def _itself(kept: Kept) -> Kept:
    return kept


@contextmanager
def _about(place: Place) -> Iterator[None]:
    """Name the tensor in what is raised."""
    try:
        yield
    except (TypeError, ValueError) as error:
        refusal = TypeError if isinstance(error, TypeError) else ValueError
        raise refusal(f"remask cannot change the mask of {place.name!r}. {error}") from error
    except Exception as error:
        error.add_note(f"remask could not change the mask of {place.name!r}; the model is as it was.")
        raise


def _kept(place: Place, positions: Tensor) -> Kept:
    masked = _masked(place)
    values = masked.stored
    if len(masked.chain) > 1:
        values = _weight(place).flatten().index_select(0, positions)
    return Kept(place.name, masked.sparse._known_shape, values, positions)


def _weight(place: Place) -> Tensor:
    chain = _masked(place).chain
    require_room([(place.name, chain)], "remask")
    return build(chain)


def _moved(place: Place, old: Tensor, kept: Kept, rule: MaskRule) -> tuple[Tensor, Move]:
    """The sorted positions of the new mask and the move to them, by a rule that tells what stays or any other one."""
    if isinstance(rule.move, Swap):
        new, move = Move.swapping(old, rule.move.choose(kept).to(old.device))
        assert _is_rising(new)
        return new, move
    new = _positions(place, kept, rule).to(old)
    return new, Move.between(old, new)


def _positions(place: Place, kept: Kept, rule: MaskRule) -> Tensor:
    """The sorted positions of the new mask, by a rule on kept entries, or by one that is shown the whole weight."""
    if rule.move is not None:
        return _require_positions(rule, rule.move(kept), kept.shape.numel())
    asked = MaskedSparse(rule, product="dense")
    asked.adopt(_weight(place))
    return asked.positions


def _require_positions(rule: MaskRule, positions: object, entries: int) -> Tensor:
    whole = isinstance(positions, Tensor) and positions.dtype in (torch.int32, torch.int64) and positions.dim() == 1
    if not isinstance(positions, Tensor) or not whole or positions.is_meta:
        got = type(positions).__name__
        if isinstance(positions, Tensor):
            got = f"{positions.dtype} of shape {tuple(positions.shape)} on {positions.device}"
        raise TypeError(f"{rule} needs to choose positions: one row of whole numbers. Got {got}. See MaskRule.")
    outside = positions.numel() > 0 and not (int(positions.min()) >= 0 and int(positions.max()) < entries)
    found = positions if outside else _ordered(positions.to(index_dtype(entries)))
    if outside or not _is_rising(found):
        raise ValueError(
            f"{rule} needs to choose positions from 0 to {entries - 1}, each once. Got some that are repeated or out "
            "of range. A position is row * columns + column."
        )
    return found


def _ordered(positions: Tensor) -> Tensor:
    return positions if _is_rising(positions) else positions.sort(stable=True).values


def _is_rising(positions: Tensor) -> bool:
    return bool((positions[1:] > positions[:-1]).all())


def _change(place: Place, rule: MaskRule, positions: Tensor, move: Move, optimizer: Optimizer | None) -> _Change:
    masked = _masked(place)
    stored = masked.stored
    values = move.of(stored)
    with _about(place):
        _require_agreement(place, masked, positions, values)
    gradient = None if stored.grad is None else move.of(stored.grad)
    state = {} if optimizer is None else moved_state(optimizer, stored, move)
    return _Change(place.name, masked, rule.name, positions, values, gradient, state)


def _require_agreement(place: Place, masked: _Masked, positions: Tensor, values: Tensor) -> None:
    """Try on a copy whether what is applied on top of the mask can hold with the new one."""
    if len(masked.chain) > 1:
        twin = copied(masked.chain)
        sparse = steps(twin)[0]
        assert isinstance(sparse, MaskedSparse)
        sparse._set_positions(positions)
        give(originals(twin)["original"], values)
        require_agreement(place.name, twin, build(twin))


def _require_same_everywhere(model: nn.Module, changes: Sequence[_Change]) -> None:
    require_same_masks(model, {change.name: change.positions for change in changes})
    for change in changes:
        before, after = change.masked.stored.numel(), change.values.numel()
        if before != after and wrapper_in(model) is not None:
            raise ValueError(
                "remask needs as many entries as before while DistributedDataParallel wraps the model, since its "
                f"buckets have the old sizes. Got {after} in place of {before} for {change.name!r}. Remask the model "
                "inside, its `module`, and wrap that anew."
            )


def _make(change: _Change, optimizer: Optimizer | None) -> None:
    """The one part that changes anything: new tensors in the place of the old."""
    stored = change.masked.stored
    change.masked.sparse._set_positions(change.positions, change.origin)
    give(stored, change.values)
    stored.grad = change.gradient
    if optimizer is not None and change.state:
        optimizer.state[stored] = change.state
