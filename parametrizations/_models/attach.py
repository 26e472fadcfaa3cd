"""Attaching parametrizations to one tensor for `register`, beside the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization
from torch.optim import Optimizer

from parametrizations._models.agreement import require_agreement
from parametrizations._models.changes import Changes
from parametrizations._models.constrained import ATTACHED, ORDER, Slot, plain_order
from parametrizations._models.inverses import Unreachable
from parametrizations._models.layer import constrained_class
from parametrizations._models.matching import naming
from parametrizations._models.optimizers import renew
from parametrizations._torch.chains import chains
from parametrizations._torch.chains import steps as steps_of
from parametrizations._torch.owners import set_owner
from parametrizations._torch.parameters import replace_data
from parametrizations._torch.private import buffers, children, parameters
from parametrizations.parametrization import Parametrization

__all__ = ["attach"]


class _Host(nn.Module):
    """A temporary module with one tensor of the model. PyTorch attaches the parametrizations to this module.

    A third-party parametrization gets a copy of the weight, since it may write into it.
    """

    def __init__(self, slot: Slot, weight: Tensor, first: nn.Module) -> None:
        super().__init__()
        self.train(slot.module.training)
        if slot.parametrizations is not None:
            self.parametrizations = nn.ModuleDict({slot.tensor_name: slot.copied().chain})
            return
        data = weight if _is_own(first) and not weight.is_inference() else weight.clone()
        self.register_parameter(slot.tensor_name, nn.Parameter(data, slot.first_stored.requires_grad))

    def __getattr__(self, name: str) -> Any:
        chain = chains(self).get(name)
        return super().__getattr__(name) if chain is None else chain()


def attach(
    changes: Changes,
    slot: Slot,
    steps: Sequence[nn.Module],
    replaced: Mapping[int, Tensor],
    optimizer: Optimizer | None,
) -> None:
    """Build the chain of one tensor with copies of the new steps, and collect the changes of the model.

    ``replaced`` has the tensors that replace stored tensors, by the ``id`` of the old one.
    """
    weight = slot.materialised()
    built = Slot(slot.names, slot.module, slot.tensor_name, _built(slot, steps, weight))
    require_agreement(built, weight)
    old = [replaced.get(id(tensor), tensor) for tensor in slot.stored.values()]
    if built.chain.is_tensor or slot.steps:
        for tensor, new in zip(old, built.stored.values(), strict=True):
            changes.data(tensor, new.data)
    if slot.parametrizations is None:
        trained = _collect_first(changes, built, old)
    else:
        trained = _collect_further(changes, slot, built)
    names = changes.draft(children(slot.module))["parametrizations"]
    kind = constrained_class(slot.module, changes.draft(children(names)), fused=True)
    changes.attribute(slot.module, "__class__", kind)
    renew(changes, optimizer, old, trained)


def _built(slot: Slot, steps: Sequence[nn.Module], weight: Tensor) -> ParametrizationList:
    """The chain of the tensor with the new steps, built on a temporary module."""
    host = _Host(slot, weight, steps[0])
    for step in steps:
        with naming("register", f"attach {_described(slot, step, host)}"):
            _attach_one(host, slot, copy.deepcopy(step), weight)
    chain = chains(host)[slot.tensor_name]
    known: list[int] = getattr(chain, ATTACHED, [])
    setattr(chain, ATTACHED, [*known, *range(len(slot.steps), len(chain))])
    return chain


def _attach_one(host: _Host, slot: Slot, step: nn.Module, weight: Tensor) -> None:
    if isinstance(step, Parametrization):
        step._require_matrix(weight)
    # PyTorch's check materialises the weight. A constraint of this library has laws instead.
    unchecked = _is_own(step) and not chains(host)
    register_parametrization(host, slot.tensor_name, step, unsafe=unchecked)
    built = Slot(slot.names, host, slot.tensor_name, chains(host)[slot.tensor_name])
    if unchecked:
        built.chain.unsafe = False
    if len(built.chain) == 1:
        return
    try:  # PyTorch does not invert the earlier steps
        for name, stored in built.inverted(weight.clone(), project=True).items():
            replace_data(built.stored[name], stored.to(built.stored[name].device))
    except Unreachable as refused:
        if refused.step is step:
            raise
        # Earlier third-party steps that cannot start from the weight keep their stored tensors, as in PyTorch.


def _is_own(step: nn.Module) -> bool:
    return isinstance(step, Parametrization) and step._is_own


def _described(slot: Slot, step: nn.Module, host: _Host) -> str:
    """A step, its tensor and the earlier steps, for errors."""
    chain = chains(host).get(slot.tensor_name)
    earlier = "" if chain is None else ", ".join(type(one).__name__ for one in steps_of(chain))
    replace = " (bake first to replace)" if slot.steps else ""
    return f"{type(step).__name__} to {slot.name!r}" + (f" on top of {earlier}{replace}" if earlier else "")


def _collect_first(changes: Changes, built: Slot, old: Sequence[Tensor]) -> dict[str, Tensor]:
    """Collect the change of a plain parameter to a constrained one, and return the parameters of the chain."""
    module = built.module
    own = changes.draft(children(module))
    if "parametrizations" not in own:
        own["parametrizations"] = nn.ModuleDict()
        setattr(own["parametrizations"], ORDER, [*parameters(module), *buffers(module)])
    elif chains(module):
        changes.attribute(own["parametrizations"], ORDER, plain_order(module))
    changes.draft(children(own["parametrizations"]))[built.tensor_name] = built.chain
    changes.draft(parameters(module)).pop(built.tensor_name)
    if built.chain.is_tensor:
        parameters(built.chain)["original"] = old[0]  # type: ignore[assignment]
    return built.trained


def _collect_further(changes: Changes, slot: Slot, built: Slot) -> dict[str, Tensor]:
    """Collect the change of a chain to a longer one, and return its parameters."""
    new = {str(index): step for index, step in enumerate(built.steps) if index >= len(slot.steps)}
    for step in new.values():
        set_owner(step, slot.chain)
    changes.draft(children(slot.chain)).update(new)
    changes.attribute(slot.chain, ATTACHED, getattr(built.chain, ATTACHED))
    for step, twin in zip(slot.steps, built.steps, strict=False):  # the inverse of orthogonal writes into its buffer
        for part, other in zip(step.modules(), twin.modules(), strict=True):
            changes.draft(buffers(part)).update(buffers(other))
    added = {
        name: tensor for key, step in new.items() for name, tensor in step.named_parameters(f"{slot.prefix}.{key}")
    }
    return slot.trained | added
