"""Attaches parametrizations to one tensor for `register`; the model changes later, in `Changes.commit`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization
from torch.optim import Optimizer
from typing_extensions import override

from parametrizations._models.agreement import require_agreement
from parametrizations._models.changes import Changes
from parametrizations._models.constrained import ATTACHED, ORDER, REFERS, Slot, plain_order
from parametrizations._models.inverses import Unreachable
from parametrizations._models.layer import constrained_class
from parametrizations._models.matching import naming
from parametrizations._models.optimizers import renew
from parametrizations._models.sizes import require_room
from parametrizations._models.step_state import StepState
from parametrizations._torch.chains import chains, retie, set_owner, tie, ties
from parametrizations._torch.parameters import replace_data
from parametrizations._torch.private import buffers, children, parameters
from parametrizations.parametrization import Parametrization


@dataclass(frozen=True)
class Call:
    """The context of one call of `register`.

    Args:
        changes: Collects the changes of the model.
        replaced: Copies of the tensors created in inference mode, by the ``id`` of the original.
        optimizer: The optimizer of the model, or None.
        contents: The modules and tensors of the model by their ``id``. A copy of a parametrization refers to these
            objects themselves, not to copies.
        unshared: The ids of the third-party parametrizations for one tensor only, which are attached without a copy.
    """

    changes: Changes
    replaced: Mapping[int, Tensor]
    optimizer: Optimizer | None
    contents: Mapping[int, object]
    unshared: Set[int]


class _Shared(dict[int, object]):
    """A memo for `copy.deepcopy` that keeps given objects uncopied, and notes if the copy refers to one of them."""

    has_references = False

    @override
    def get(self, key: int, default: object = None) -> object:
        found = super().get(key, default)
        self.has_references |= id(found) == key
        return found


class _Host(nn.Module):
    """A temporary module with the chain of one tensor, to which PyTorch attaches further parametrizations."""

    def __init__(self, name: str, chain: ParametrizationList, *, training: bool) -> None:
        super().__init__()
        self.training = training
        self.parametrizations = nn.ModuleDict({name: chain})

    def __getattr__(self, name: str) -> Any:
        chain = chains(self).get(name)
        return super().__getattr__(name) if chain is None else chain()


def attach(call: Call, slot: Slot, steps: Sequence[nn.Module]) -> None:
    """Build the chain of one tensor with the old and the new steps, and collect the changes of the model."""
    changes = call.changes
    if slot.parametrizations is not None:
        require_room([slot], "register", "Attach all constraints in one call, on the meta device.")
    with naming("register", f"copy the parametrizations of {slot.name!r}"):
        weight = slot.materialised()
        twin = None if slot.parametrizations is None else slot.copied()
    state = None if twin is None else StepState(slot.steps, twin.steps)
    built = _built(call, slot, twin, steps, weight)
    old = [call.replaced.get(id(tensor), tensor) for tensor in slot.stored.values()]
    if built.chain.is_tensor or twin is not None:
        for tensor, new in zip(old, built.stored.values(), strict=True):
            changes.data(tensor, new.data)
    if state is None:
        trained = _collect_first(changes, built, old)
    else:
        state.collect(changes)
        trained = _collect_further(changes, slot, built, old)
    for module, _ in slot.holders:
        lists = changes.draft(children(changes.draft(children(module))["parametrizations"]))
        changes.attribute(module, "__class__", constrained_class(module, lists, fused=True))
    # A parametrization may refer to parameters of other modules: they keep their place in the optimizer.
    own = {id(tensor) for tensor in old}
    trained = {name: one for name, one in trained.items() if id(one) in own or id(one) not in call.contents}
    renew(changes, call.optimizer, old, trained)


def _built(call: Call, slot: Slot, twin: Slot | None, steps: Sequence[nn.Module], weight: Tensor) -> Slot:
    """A slot with the new steps, which follow those of ``twin``, a copy of ``slot`` or None.

    Third-party steps are attached as copies, which inverses may change, and then replaced by the originals.
    """
    replaced: dict[str, tuple[nn.Module, StepState]] = {}
    has_references = False
    for step in steps:
        with naming("register", f"attach {_described(slot, step, twin)}"):
            final, refers = _final(call, step)
            has_references |= refers
            new = final if isinstance(step, Parametrization) else copy.deepcopy(step)
            if new is not final:
                replaced[str(len(twin.steps) if twin else 0)] = final, StepState([final], [new])
            _set_mode(call, slot, new, final)
            if isinstance(new, Parametrization):
                new._require_matrix(weight)
            chain = _first(slot, new, weight) if twin is None else _further(slot, twin, new, weight)
            _require_adopted(new)
            twin = replace(slot, parametrizations=chain)
    assert twin is not None
    _note(twin.chain, range(len(slot.steps), len(twin.chain)), has_references)
    require_agreement(twin, weight)
    _require_padding(twin, weight)
    for index, (final, state) in replaced.items():
        state.collect(call.changes)
        set_owner(final, twin.chain)
        children(twin.chain)[index] = final
    return replace(twin)  # a new slot, since `steps` is cached


def _set_mode(call: Call, slot: Slot, new: nn.Module, final: nn.Module) -> None:
    """Give a step the mode of its layer, training or evaluation, but not its references to modules of the model."""
    for part, own in zip(new.modules(), final.modules(), strict=True):
        part.training = part.training if id(own) in call.contents else slot.module.training


def _note(chain: ParametrizationList, attached: range, has_references: bool) -> None:
    known: list[int] = getattr(chain, ATTACHED, [])
    setattr(chain, ATTACHED, [*known, *attached])
    setattr(chain, REFERS, has_references or getattr(chain, REFERS, False))


def _require_adopted(step: nn.Module) -> None:
    if isinstance(step, Parametrization) and step.shape is None:
        raise TypeError(
            f"{type(step).__name__} needs the right_inverse of Parametrization, which checks weights. Got an "
            "overridden one. Define project, excess and invert instead."
        )


def _require_padding(slot: Slot, weight: Tensor) -> None:
    """Refuse a constraint that makes an embedding's zero padding row non-zero: no gradient would correct the row."""
    for module, _ in slot.holders:
        padding = module.padding_idx if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None
        if padding is None or weight.is_meta or bool(weight[padding].any()):
            continue
        if bool(slot.materialised()[padding].any()):
            raise ValueError(
                f"register needs constraints that keep the padding row of {slot.name!r} at zero. Got {slot.kinds}, "
                f"which changes row {padding}. Set padding_idx=None, or choose a constraint with zeros in that row."
            )


def _final(call: Call, step: nn.Module) -> tuple[nn.Module, bool]:
    """The step to attach, a copy unless unshared, and whether it refers to other modules or tensors of the model."""
    if isinstance(step, Parametrization) and step._is_own:
        return copy.deepcopy(step), False
    shared = _Shared({key: one for key, one in call.contents.items() if one is not step})
    twin = copy.deepcopy(step, shared)
    return step if id(step) in call.unshared else twin, shared.has_references


def _first(slot: Slot, step: nn.Module, weight: Tensor) -> ParametrizationList:
    """A chain with this step alone. Steps from outside this library get a copy of the weight, as they may change it."""
    own = isinstance(step, Parametrization) and step._is_own
    data = weight if own and not weight.is_inference() else weight.clone()
    # PyTorch's check materialises the weight. Constraints of this library skip it, because tests cover them.
    chain = ParametrizationList([step], nn.Parameter(data, slot.first_stored.requires_grad), unsafe=own)
    chain.unsafe = False
    return chain


def _further(slot: Slot, twin: Slot, step: nn.Module, weight: Tensor) -> ParametrizationList:
    """The chain of ``twin``, the slot as built so far, with ``step`` appended and stored tensors for ``weight``."""
    host = _Host(slot.tensor_name, twin.chain, training=slot.module.training)
    register_parametrization(host, slot.tensor_name, step)
    built = replace(slot, parametrizations=twin.chain)
    try:  # PyTorch appends the step without changing the stored tensors, so the whole chain is inverted here
        for name, stored in built.inverted(weight.clone(), project=True).items():
            replace_data(built.stored[name], stored.to(built.stored[name].device))
    except Unreachable as refused:
        if refused.step is step:
            raise
        # The right_inverse of an earlier third-party step refuses the weight: the stored tensors stay, as in PyTorch.
    return built.chain


def _described(slot: Slot, step: nn.Module, twin: Slot | None) -> str:
    """A text with a step, its tensor and the earlier steps (those of ``twin``), for error messages."""
    earlier = "" if twin is None else ", ".join(type(one).__name__ for one in twin.steps)
    replace = " (bake first to replace)" if slot.steps else ""
    return f"{type(step).__name__} to {slot.name!r}" + (f" on top of {earlier}{replace}" if earlier else "")


def _collect_first(changes: Changes, built: Slot, old: Sequence[Tensor]) -> dict[str, Tensor]:
    """Collect the change of the plain parameter ``old[0]`` to a chain, and return the chain's parameters by name."""
    if built.chain.is_tensor:
        parameters(built.chain)["original"] = old[0]  # type: ignore[assignment]
    if built.others:
        built.chain.register_load_state_dict_post_hook(retie)  # type: ignore[no-untyped-call]
    for (module, name), chain in zip(built.holders, tie(built.chain, len(built.holders)), strict=True):
        own = changes.draft(children(module))
        if "parametrizations" not in own:
            own["parametrizations"] = nn.ModuleDict()
            setattr(own["parametrizations"], ORDER, [*parameters(module), *buffers(module)])
        elif chains(module):
            changes.attribute(own["parametrizations"], ORDER, plain_order(module))
        changes.draft(children(own["parametrizations"]))[name] = chain
        changes.draft(parameters(module)).pop(name)
    return built.trained


def _collect_further(changes: Changes, slot: Slot, built: Slot, old: Sequence[Tensor]) -> dict[str, Tensor]:
    """Collect the change of a chain to a longer one.

    Returns:
        One dict by name: the stored tensors ``old``, and the parameters of the new steps.
    """
    new = {str(index): step for index, step in enumerate(built.steps) if index >= len(slot.steps)}
    for step in new.values():
        set_owner(step, slot.chain)
    changes.draft(children(slot.chain)).update(new)
    for name in (ATTACHED, REFERS):
        for chain in ties(slot.chain):
            changes.attribute(chain, name, getattr(built.chain, name))
    trained = {f"{slot.prefix}.{key}": tensor for key, tensor in zip(slot.stored, old, strict=True)}
    for key, step in new.items():
        trained |= step.named_parameters(f"{slot.prefix}.{key}")
    return trained
