"""`register`: constrain tensors of a whole model by their names."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import register_parametrization
from torch.optim import Optimizer

from parametrizations._checks import kind_of
from parametrizations._models.agreement import require_agreement
from parametrizations._models.inference import holders, leave_inference
from parametrizations._models.layer import become_constrained
from parametrizations._models.matching import Key, Names, matches, named_places, refuse_no_match
from parametrizations._models.optimizers import renew, require_optimizer
from parametrizations._models.order import keep_order
from parametrizations._models.ownership import claim
from parametrizations._models.places import Place, identity, owners
from parametrizations._models.rollback import all_or_nothing
from parametrizations._models.stand_ins import put_stand_ins, take_over
from parametrizations._models.together import with_own_rules
from parametrizations._models.weights import Unreachable, settle
from parametrizations._torch.chains import chain_of, chains, steps
from parametrizations._torch.sharding import is_sharded
from parametrizations._torch.shared_class import can_share
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.parametrization import Parametrization

__all__ = ["Rules", "register"]

Model = TypeVar("Model", bound=nn.Module)
Rules = Mapping[str, nn.Module | Sequence[nn.Module]]


def register(model: Model, rules: Rules, *, optimizer: Optimizer | None = None) -> Model:
    """Constrain every parameter whose name matches a pattern. On an error, nothing changes.

    Each match gets its own copy of the parametrization. Copies share mask rules and the generators in them, and a rule
    such as `masks.erdos_renyi` sees all of its weights together. The present weight is adopted, as by PyTorch's
    `register_parametrization`. Its gradient is dropped, because the stored tensor may have another shape and meaning.
    An `nn.Linear` then uses the product that `explain` reports. Plain checkpoints of the model still load
    (`load_state_dict`), deep copies are independent, and ``reset_parameters`` of a layer initialises the stored tensor.
    Call ``backward`` on earlier losses first: their graphs refer to the old parameters.

    Args:
        model: Changed in place. Tensors created in inference mode cannot be trained, so they are replaced.
        rules: Maps each pattern to a parametrization, or to a sequence of them, applied left to right. A pattern is the
            full name of a parameter in the plain model, such as ``encoder.layers.*.linear1.weight``, with the wildcards
            of `fnmatch`: ``*`` crosses dots. New parametrizations of a constrained tensor are applied on top of the old
            ones. The stored tensor is computed from the weight through all inverses.
        optimizer: An optimizer that was made before. Its state is dropped for exactly the matching parameters. Without
            it, make a new optimizer: a fused one would write out of bounds (see the README). Fused SGD with dampening
            continues unfused, because it cannot restart the momentum of only some parameters.

    Returns:
        The same model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a pattern matches nothing, or two match one parameter; if a parameter is tied (it has two
            owners), pruned, sharded over processes, or not initialised yet; if the parametrization refuses the weight;
            if a tensor would have two constraints of the same class, or constraints that undo one another; or if the
            optimizer has none of the parameters.

    Example:
        >>> from parametrizations import Diagonal, MaskedSparse, masks
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = register(model, {"0.weight": Diagonal(), "2.*eight": MaskedSparse(masks.magnitude(density=0.5))})
        >>> [parameter.numel() for parameter in model.parameters()]
        [8, 8, 2, 8]
    """
    plan = _plan(model, rules)
    if optimizer is not None:
        require_optimizer(optimizer, "register", {place.name: tensor for place, _ in plan for tensor in place.stored})
    modules = dict.fromkeys(place.module for place, _ in plan)
    with all_or_nothing([*modules, *holders(model)], optimizer, rules.values()), torch.inference_mode(False):
        leave_inference(model, optimizer)
        stored = [place.stored for place, _ in plan]
        for place, chain in with_own_rules(plan):
            _attach(place, chain)
        for module in modules:
            become_constrained(module, fused=True)
        for (place, _), old in zip(plan, stored, strict=True):
            take_over(place, old)
            if optimizer is not None:
                renew(optimizer, old, place.trained)
        return model


def _attach(place: Place, chain: Sequence[nn.Module]) -> None:
    weight = getattr(place.module, place.tensor_name).data
    before = len(chains(place.module).get(place.tensor_name, ()))
    put_stand_ins(place)
    for parametrization in chain:
        described = _described(place, parametrization, before)
        try:
            _attach_one(place, copy.deepcopy(parametrization), weight)
        except (TypeError, ValueError) as error:
            refusal = TypeError if isinstance(error, TypeError) else ValueError
            raise refusal(f"register cannot attach {described}. {error}") from error
        except Exception as error:
            error.add_note(f"register could not attach {described}; the model is as it was.")
            raise
    require_agreement(place.name, chain_of(place.module, place.tensor_name), weight)


def _attach_one(place: Place, parametrization: nn.Module, weight: Tensor) -> None:
    if isinstance(parametrization, Parametrization):
        parametrization._require_matrix(weight)
    with keep_order(place.module):
        register_parametrization(place.module, place.tensor_name, parametrization)
    chain = chain_of(place.module, place.tensor_name)
    claim(chain)
    if len(chain) == 1:
        return
    try:  # PyTorch does not invert the ones before
        settle(chain, weight.clone())
    except Unreachable as refused:
        if refused.step is parametrization:
            raise
        # What a foreign one cannot start from does not reach it: it goes on with what it stores, as PyTorch lets it.


def _described(place: Place, parametrization: nn.Module, before: int) -> str:
    """What is attached where, on top of what; ``before`` is how many were there before the call."""
    chain = chains(place.module).get(place.tensor_name)
    there = [] if chain is None else [type(step).__name__ for step in steps(chain)]
    replaced = " (bake first to replace)" if before else ""
    on_top = f" on top of {', '.join(there)}{replaced}" if there else ""
    return f"{type(parametrization).__name__} to {place.name!r}{on_top}"


def _plan(model: nn.Module, rules: Rules) -> list[tuple[Place, Sequence[nn.Module]]]:
    """What to attach where; everything that can be wrong before anything has changed is refused here."""
    if not isinstance(model, nn.Module) or not isinstance(rules, Mapping):
        raise TypeError(
            "register needs a model and a mapping from names to parametrizations. "
            f"Got {type(model).__name__} and {type(rules).__name__}. "
            'Pass e.g. (model, {"encoder.*.weight": Diagonal()}).'
        )
    names = named_places(model)
    matched: dict[Key, str] = {}
    plan: list[tuple[Place, Sequence[nn.Module]]] = []
    for pattern, value in rules.items():
        chain = _chain(pattern, value)
        _require_unpruned(model, pattern)
        for key in matches(pattern, names) or _no_match(model, pattern, names):
            _require_unmatched(names[key][0], pattern, matched.get(key))
            _require_different_classes(names[key][0], chain)
            matched[key] = pattern
            plan.append((names[key][0], chain))
    _require_attachable(model, [place for place, _ in plan])
    return plan


def _chain(pattern: str, value: object) -> Sequence[nn.Module]:
    chain = list(value) if isinstance(value, Sequence) else [value]
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    wrong = [kind_of(step) for step in chain if not isinstance(step, nn.Module) or isinstance(step, containers)]
    if not isinstance(pattern, str):
        raise TypeError(f"register needs names, or patterns of them, as keys. Got {type(pattern).__name__}.")
    if wrong or not chain:
        raise TypeError(
            f"register needs a parametrization, or a sequence of them, for {pattern!r}. "
            f"Got {wrong[0] if wrong else 'none'}. Pass an object such as Diagonal(), or a list of them, applied left "
            "to right."
        )
    return [step for step in chain if isinstance(step, nn.Module)]


def _no_match(model: nn.Module, pattern: str, names: Names) -> NoReturn:
    if pattern in dict(model.named_buffers()):
        raise ValueError(
            f"register needs a parameter for {pattern!r}. Got a buffer. Use PyTorch's register_parametrization for it."
        )
    refuse_no_match("register", "parameter", pattern, names)


def _require_unpruned(model: nn.Module, pattern: str) -> None:
    """Refuse a pattern that means a pruned tensor: what it would find is another one, or none, in silence."""
    pruned = _pruned(model, pattern)
    if pruned:
        raise ValueError(
            f"register needs a parameter for {pattern!r}. Got one that torch.nn.utils.prune computes from another. "
            f"Make it a parameter again first: prune.remove({pruned}), where model is the one given here. To constrain "
            "what it is computed from, take a pattern of that name alone, which ends with _orig."
        )


def _pruned(model: nn.Module, pattern: str) -> str | None:
    """What to call ``prune.remove`` with for a tensor that a pattern means, where pruning has taken its place."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for name in (name.removesuffix("_mask") for name in buffers if name.endswith("_mask")):
        if fnmatchcase(name, pattern) and f"{name}_orig" in parameters:
            layer, _, tensor_name = name.rpartition(".")
            return f"model.get_submodule({layer!r}), {tensor_name!r}"
    return None


def _require_unmatched(place: Place, pattern: str, other: str | None) -> None:
    if other is not None:
        raise ValueError(
            f"register needs one rule for each parameter. Got two for {place.name!r}: {other!r} and {pattern!r}. "
            "Narrow one of them, or give a sequence of parametrizations."
        )


def _require_different_classes(place: Place, new: Sequence[nn.Module]) -> None:
    """Refuse a constraint that the tensor has already, whatever its options; third-party ones may be stacked."""
    chain = chains(place.module).get(place.tensor_name)
    kinds = [type(step) for step in (() if chain is None else steps(chain)) if isinstance(step, Parametrization)]
    for kind in (type(step) for step in new if isinstance(step, Parametrization)):
        if kind in kinds:
            mask = " To change only its mask, call remask." if issubclass(kind, MaskedSparse) else ""
            raise ValueError(
                f"register needs constraints of different classes for {place.name!r}. Got a second {kind.__name__}. "
                f"Pass it once, or, to replace an earlier one, bake first.{mask}"
            )
        kinds.append(kind)


def _require_attachable(model: nn.Module, places: list[Place]) -> None:
    names = owners(model) if places else {}
    for place in places:
        for tensor in place.stored:
            _require_one_owner(names[identity(tensor)])
            if is_lazy(tensor) or is_sharded(tensor):
                raise ValueError(
                    f"register needs an initialised, unsharded tensor at {place.name!r}. "
                    f"Got a {type(tensor).__name__}. Run a batch through a lazy model first; register before "
                    "fully_shard."
                )
        _require_plain_class(place)


def _require_one_owner(names: list[str]) -> None:
    if len(names) > 1:
        raise ValueError(
            f"register needs a parameter with one owner. Got one that is tied: {', '.join(map(repr, names))} are the "
            "same tensor, and would come apart. Untie them first, or constrain another parameter."
        )


def _require_plain_class(place: Place) -> None:
    if isinstance(place.module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise ValueError(
            f"register needs a module that is no container for {place.name!r}. Got {type(place.module).__name__}, "
            "which would take the parametrization for one of its children. Move the parameter to a module of its own."
        )
    if isinstance(place.module, torch.jit.ScriptModule):
        raise ValueError(
            f"register needs a module that runs in Python for {place.name!r}. Got a scripted or traced one, whose "
            "tensors are fixed. Register before, and script or trace a baked copy."
        )
    if chains(place.module) and not can_share(place.module):
        raise ValueError(
            f"register needs a module with the class that register_parametrization gives for {place.name!r}. "
            f"Got {type(place.module).__name__}. Register before fully_shard, or whatever else changed the class."
        )
