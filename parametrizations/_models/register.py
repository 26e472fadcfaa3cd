"""`register`: constrain parameters of a whole model, by name or by the class of their layer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from parametrizations._checks import by_signature, kind_of
from parametrizations._diagonals import OnDiagonals
from parametrizations._models.attach import Call, attach
from parametrizations._models.changes import Changes
from parametrizations._models.constrained import Slot, slots, tied_names
from parametrizations._models.eligible import require_eligible, require_unpruned
from parametrizations._models.matching import Key, has_dims, matches, refuse_no_match, require_key, shown, with_values
from parametrizations._models.optimizers import leave_inference, require_optimizer
from parametrizations._torch.chains import is_attached
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.masks import Kept, MaskRule
from parametrizations.masks.arguments import is_array
from parametrizations.masks.rule import individual
from parametrizations.parametrization import Parametrization

Model = TypeVar("Model", bound=nn.Module)
Rules = Mapping[Any, nn.Module | Sequence[nn.Module] | None]
"""Keys are strings and classes, typed as Any: for a union, type checkers would refuse a dict with keys of one kind."""
Plan = Sequence[tuple[Slot, Sequence[nn.Module]]]


@by_signature
def register(model: Model, rules: Rules, *, optimizer: Optimizer | None = None) -> Model:
    """Constrain every parameter with a matching name, and the ``weight`` of every layer of a given class.

    On an error, the model and the optimizer do not change; random generators may have advanced.

    The present weight is projected onto the constraint's set. Its gradient is dropped, because the stored tensor may
    have another shape and meaning. An `nn.Linear` then uses the product that `explain` reports. Plain checkpoints of
    the model still load (`load_state_dict`), deep copies are independent, and ``reset_parameters`` of a layer
    initialises the stored tensor. Call ``backward`` on earlier losses first: their graphs refer to old parameters.

    Each match gets its own copy of the parametrization. References to modules and tensors of the model are kept. Copies
    share mask rules and the generators in them, and a rule such as `masks.erdos_renyi` sees all of its weights
    together. A third-party parametrization with a single match is attached without a copy. A tied parameter, which
    several layers share, such as an embedding and an output layer, is constrained once. All these layers must match,
    with the same constraint.

    Args:
        model: Changed in place. Tensors created in inference mode cannot be trained, so normal tensors replace them.
        rules: Maps each key to a parametrization, or to a sequence of them, applied left to right, or to None, which
            excludes the match. A key is the full name of a parameter in the plain model, or a pattern with the
            wildcards of `fnmatch`, such as ``encoder.*.weight``; ``*`` crosses dots. Or it is a class, such as
            ``nn.Conv2d``, for the ``weight`` of every instance. An exact name takes precedence over a pattern, and a
            pattern over a class. A class skips vectors, such as the scale of a normalisation; a pattern that matches
            vectors and matrices is refused. On a constrained tensor, new parametrizations follow the old ones.
        optimizer: The optimizer of the model, if it exists. Its state is dropped for exactly the matching parameters.
            Without this argument, create a new optimizer: an old fused one would write out of bounds (see the README).
            Fused SGD with dampening continues unfused, because fused SGD needs momentum for all parameters or none.

    Returns:
        The same model.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a key matches nothing, or two keys of the same kind match one parameter; if only some owners of a
            tied parameter match, or their constraints differ; if a parameter is also held by another attribute of a
            module, pruned, sharded over processes, offloaded, or not initialised yet; if its module cannot use a
            computed tensor; if the parametrization refuses the weight; if a tensor would have two constraints of the
            same class, or constraints that undo one another, such as `Diagonal` and `ZeroDiagonal`; or if the optimizer
            has none of the parameters.

    Example:
        >>> from parametrizations import Diagonal, MaskedSparse, masks
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = register(model, {"0.weight": Diagonal(), "2.*eight": MaskedSparse(masks.magnitude(density=0.5))})
        >>> [parameter.numel() for parameter in model.parameters()]
        [8, 8, 2, 8]
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2))
        >>> rule = MaskedSparse(masks.magnitude(density=0.1))
        >>> _ = register(model, {nn.Conv2d: rule, nn.Linear: rule, "0.weight": None})
        >>> [parameter.numel() for parameter in model.parameters() if parameter.dim() == 1]
        [8, 8, 58, 2, 2]
    """
    plan = _plan(model, rules)
    require_optimizer(optimizer, "register", {slot.name: tensor for slot, _ in plan for tensor in slot.stored.values()})
    changes = Changes()
    with torch.inference_mode(False):
        replaced = leave_inference(changes, model, optimizer)
        call = Call(changes, replaced, optimizer, _contents(model), _unshared(plan))
        for slot, steps in _with_individual_rules(plan):
            attach(call, slot, steps)
        changes.commit()
    return model


def _plan(model: nn.Module, rules: Rules) -> Plan:
    """Pairs of a tensor, as a `Slot`, and its new parametrizations, after all checks that do not need the weight."""
    if not isinstance(model, nn.Module) or not isinstance(rules, Mapping):
        raise TypeError(
            "register needs a model and a mapping from names to parametrizations. "
            f"Got {type(model).__name__} and {type(rules).__name__}. "
            'Pass e.g. (model, {"encoder.*.weight": Diagonal()}).'
        )
    every = slots(model)
    for key in rules:
        require_key("register", key)
        require_unpruned(model, key)
    plan = with_values(
        "register",
        every,
        {key: None if value is None else _chain(key, value) for key, value in rules.items()},
        partial(_no_match, model, every),
        "Narrow one key, or pass a list of both parametrizations under one key.",
    )
    for slot, steps in plan:
        _require_different_classes(slot, steps)
    plan = require_eligible(model, plan, tied_names(every) if plan else {})
    _warn_of_stacked_weights(plan)
    plan = [(slot, [_fitting(slot, step) for step in steps]) for slot, steps in plan]
    _require_dims(rules, plan)
    return plan


def _chain(key: Key, value: object) -> Sequence[nn.Module]:
    chain = list(value) if isinstance(value, Sequence) else [value]
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    wrong = [step for step in chain if not isinstance(step, nn.Module) or isinstance(step, containers)]
    if wrong or not chain:
        advice = "Pass an object such as Diagonal(), or a list of them, applied left to right"
        if wrong and (isinstance(wrong[0], Tensor | MaskRule | FunctionType) or is_array(wrong[0])):
            advice = "Wrap a mask or its rule, as in MaskedSparse(masks.magnitude(density=0.1))"
        raise TypeError(
            f"register needs a parametrization, or a sequence of them, for {shown(key)}. "
            f"Got {kind_of(wrong[0]) if wrong else 'none'}. {advice}."
        )
    for step in chain:
        if isinstance(step, Parametrization):
            step._require_complete()
    return [step for step in chain if isinstance(step, nn.Module)]


def _no_match(model: nn.Module, every: Sequence[Slot], key: Key) -> NoReturn:
    if key in dict(model.named_buffers()):
        raise ValueError(
            f"register needs a parameter for {key!r}. Got a buffer. Use PyTorch's register_parametrization for it."
        )
    own = dict(model.named_parameters())
    if f"{key}_v" in own or f"{key}_orig" in own:
        function = "weight_norm" if f"{key}_v" in own else "spectral_norm"
        raise ValueError(
            f"register needs a parameter for {key!r}. Got a tensor computed by torch.nn.utils.{function}. Remove "
            f"that first: torch.nn.utils.remove_{function}(layer)."
        )
    refuse_no_match("register", "parameter", key, every)


def _require_dims(rules: Rules, plan: Plan) -> None:
    """Refuse a key if some of its matches have an unsuitable number of dimensions. The error names matches that fit."""
    dims = {slot: _dims(steps) for slot, steps in plan if any(isinstance(step, Parametrization) for step in steps)}
    for key in rules:
        found = [slot for slot in matches(key, dims) if rules.keys().isdisjoint(slot.names)]
        fitting = [slot for slot in found if has_dims(slot, dims[slot])]
        others = [slot for slot in found if slot not in fitting]
        if others and (fitting or dims[others[0]] is not None):
            needed = "two or more dimensions" if dims[others[0]] is None else f"{dims[others[0]]} dimensions"
            names = ", ".join(map(repr, [slot.name for slot in fitting[:4]])) + ", ..." * (len(fitting) > 4)
            advice = (
                f"Narrow the pattern to the matches that fit: {names}" if names else "Use MaskedSparse, or pass axes"
            )
            raise ValueError(
                f"register needs weights with {needed} for {shown(key)}. Got {others[0].name!r} of shape "
                f"{tuple(others[0].first_stored.shape)}. {advice}."
            )


def _dims(steps: Sequence[nn.Module]) -> int | None:
    """The number of dimensions that the constraints need; None if they accept any number."""
    return next((step.dims for step in steps if isinstance(step, Parametrization) and step.dims is not None), None)


def _require_different_classes(slot: Slot, new: Sequence[nn.Module]) -> None:
    """Refuse two constraints of the same class on a tensor, even with other options. Third-party classes may repeat."""
    kinds = [type(step) for step in slot.steps if isinstance(step, Parametrization)]
    for kind in (type(step) for step in new if isinstance(step, Parametrization)):
        if kind in kinds:
            mask = " To change only its mask, call remask." if issubclass(kind, MaskedSparse) else ""
            raise ValueError(
                f"register needs constraints of different classes for {slot.name!r}. Got a second {kind.__name__}. "
                f"Pass it once, or, to replace an earlier one, bake first.{mask}"
            )
        kinds.append(kind)


def _contents(model: nn.Module) -> dict[int, object]:
    """The modules, parameters and buffers of a model, by their ``id``."""
    return {id(one): one for one in (*model.modules(), *model.parameters(), *model.buffers())}


def _unshared(plan: Plan) -> set[int]:
    """The ids of third-party parametrizations that need no copy: for one tensor only, and not attached to any yet."""
    uses = Counter(step for _, steps in plan for step in steps if not isinstance(step, Parametrization))
    return {id(step) for step, count in uses.items() if count == 1 and not is_attached(step)}


def _with_individual_rules(plan: Plan) -> Plan:
    """The same plan, with each mask rule that looks at several weights together replaced by one rule per weight."""
    own = [(slot, list(steps)) for slot, steps in plan]
    together = [
        (slot, steps, index, step, step.rule)
        for slot, steps in own
        for index, step in enumerate(steps)
        if isinstance(step, MaskedSparse) and step.rule is not None and step.rule.spread is not None
    ]
    weights = [Kept.whole(slot.materialised(), slot.name, slot.axes) for slot, *_ in together]
    for name, count in Counter(map(repr, dict.fromkeys(rule for *_, rule in together))).items():
        if count > 1:
            text = f"register got equal rules ({name}) in {count} objects. Share one for all weights."
            warnings.warn(text, stacklevel=2)
    rules = individual([rule for *_, rule in together], weights)
    for (_, steps, index, step, _), rule in zip(together, rules, strict=True):
        steps[index] = step._with_rule(rule)
    return own


def _fitting(slot: Slot, step: nn.Module) -> nn.Module:
    """The parametrization ``step``, or its copy with the axes of the convolution that holds the weight."""
    groups = getattr(slot.module, "groups", 1)
    if isinstance(step, OnDiagonals) and slot.axes is not None and step.axes is None and groups > 1:
        raise ValueError(
            f"register needs a convolution with groups=1 for {type(step).__name__} on {slot.name!r}. Got "
            f"groups={groups}, each with its own inputs. Use MaskedSparse, or pass axes=(0, 1) and blocks={groups}."
        )
    return step.with_axes(slot.axes) if isinstance(step, Parametrization) else step


def _warn_of_stacked_weights(plan: Plan) -> None:
    """Warn if a diagonal or a mask by position does not fit the weights that a tensor stacks, such as LSTM gates."""
    for slot, step in [(slot, step) for slot, steps in plan for step in steps]:
        text, gates = None, slot.gates
        if isinstance(step, OnDiagonals) and slot.axes is None and step.blocks != 1 and step.block_count % gates:
            reaches = "reaches the first of" if step.blocks is None else "cuts across"
            text = f"Pass blocks={gates} for a diagonal in each, or blocks=1 if one is meant."
            text = f"{type(step).__name__} {reaches} the {gates} weights stacked in {slot.name!r}. {text}"
        elif isinstance(step, MaskedSparse) and step.rule is not None and (step.rule.matrices or gates) % gates:
            text = f"Pass masks.per_block(rule, {gates}) for a mask in each, or per_block(rule, 1) if one is meant."
            text = f"{step.rule} cuts across the {gates} weights stacked in {slot.name!r}. {text}"
        if text is not None:
            warnings.warn(text, stacklevel=5)
