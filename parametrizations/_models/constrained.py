"""`Slot`: a tensor of a module, with the parametrizations that compute it. Every call on models works on slots."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._models.inverses import inverted
from parametrizations._torch.chains import chains, copied, originals, others_with, steps, ties
from parametrizations._torch.private import buffers, children, is_traced, parameters, recurrent_names
from parametrizations.parametrization import Parametrization

ATTACHED = "attached_by_register"
"""Attribute of a `ParametrizationList`: the indices of the parametrizations that `register` attached."""

REFERS = "refers_to_the_model"
"""Attribute of a `ParametrizationList`: whether a parametrization refers to other modules or tensors of the model."""

ORDER = "plain_order"
"""Attribute of ``module.parametrizations``: the names of the module's tensors in their original order."""


@dataclass(frozen=True, eq=False)
class Slot:
    """A tensor of a module, with or without parametrizations. A plain parameter is its own stored tensor.

    A slot describes the model at one moment. Calls create slots and discard them.

    Args:
        names: The tensor's full names in the plain model: several if it is tied, or if its module is shared.
        module: The module that holds the tensor.
        tensor_name: The tensor's name in the module.
        parametrizations: PyTorch's list of the tensor's parametrizations, or None.
        others: The further modules of a tied tensor, each with the name of the tensor in it. A tied tensor is
            constrained once: the lists of its modules share the stored tensors and the parametrizations.
    """

    names: list[str]
    module: nn.Module
    tensor_name: str
    parametrizations: ParametrizationList | None
    others: list[tuple[nn.Module, str]] = field(default_factory=list)

    @property
    def holders(self) -> list[tuple[nn.Module, str]]:
        """Every module with the tensor, and the name of the tensor in it."""
        return [(self.module, self.tensor_name), *self.others]

    @property
    def name(self) -> str:
        """The first full name in the plain model."""
        return self.names[0]

    @property
    def chain(self) -> ParametrizationList:
        """The list of the parametrizations of a constrained tensor."""
        assert self.parametrizations is not None
        return self.parametrizations

    @cached_property
    def steps(self) -> tuple[nn.Module, ...]:
        """The parametrizations in order of application."""
        return () if self.parametrizations is None else tuple(steps(self.chain))

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """The stored tensors by PyTorch's names. Usually there is one, ``original``."""
        if self.parametrizations is not None:
            return originals(self.chain)
        parameter = parameters(self.module)[self.tensor_name]
        assert parameter is not None
        return {"original": parameter}

    @property
    def first_stored(self) -> Tensor:
        """The first stored tensor. The weight has its dtype and device, unless a third-party step changes them."""
        return next(iter(self.stored.values()))

    @property
    def prefix(self) -> str:
        """The prefix, without the last dot, of the names of the stored tensors and steps in the constrained model."""
        return f"{self.name.removesuffix(self.tensor_name)}parametrizations.{self.tensor_name}"

    @property
    def trained(self) -> dict[str, Tensor]:
        """All parameters of the chain, stored or of a parametrization, by their names in the constrained model."""
        return dict(self.chain.named_parameters(self.prefix))

    @property
    def foreign(self) -> tuple[nn.Module, ...]:
        """The third-party steps, except those attached by `register`."""
        attached: Iterable[int] = getattr(self.parametrizations, ATTACHED, ())
        return tuple(
            step
            for index, step in enumerate(self.steps)
            if index not in attached and not isinstance(step, Parametrization)
        )

    @property
    def kinds(self) -> str:
        """The parametrizations as text, in order of application, for errors and checkpoints.

        Each is its class, with the options that decide which weight a stored tensor stands for.
        """
        return ", then ".join(
            step._structure if isinstance(step, Parametrization) else type(step).__name__ for step in self.steps
        )

    @property
    def is_ours(self) -> bool:
        """Whether the tensor has a `Parametrization`, or a third-party parametrization that `register` attached."""
        return len(self.foreign) < len(self.steps)

    @property
    def binding(self) -> list[Parametrization]:
        """The constraints that hold for the weight itself: those after the last third-party step."""
        last = itertools.takewhile(lambda step: isinstance(step, Parametrization), reversed(self.steps))
        return [step for step in last if isinstance(step, Parametrization)][::-1]

    @property
    def is_compact(self) -> bool:
        """Whether the first step is a `Parametrization` that stores fewer numbers than the weight has."""
        first = self.steps[0]
        return isinstance(first, Parametrization) and first.stored_shape.numel() < first._known_shape.numel()

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight.

        With a third-party first step, the weight is computed for this. On the meta device, the shape is instead that of
        the first stored tensor.
        """
        if self.steps and isinstance(self.steps[0], Parametrization):
            return self.steps[0]._known_shape
        return self.first_stored.shape if self.first_stored.is_meta else self.materialised().shape

    @property
    def axes(self) -> tuple[int, int] | None:
        """The axes of outputs and inputs: (0, 1) in a convolution's weight, (1, 0) if transposed; otherwise None."""
        if not isinstance(self.module, _ConvNd) or self.tensor_name != "weight":
            return None
        return (1, 0) if self.module.transposed else (0, 1)

    @property
    def gates(self) -> int:
        """The number of weights that PyTorch stacks in the rows: gates, groups, or query, key and value."""
        module, name = self.module, self.tensor_name
        if isinstance(module, _ConvNd) and not module.transposed and name == "weight":
            return module.groups
        if isinstance(module, nn.MultiheadAttention):
            return 3 if name == "in_proj_weight" else 1
        if not isinstance(module, nn.RNNBase | nn.RNNCellBase) or not name.startswith(("weight_ih", "weight_hh")):
            return 1
        return 4 if isinstance(module, nn.LSTM | nn.LSTMCell) else 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1

    def copied(self) -> Slot:
        """A slot with copies of the steps. Its stored tensors share memory with the originals, but can be replaced."""
        return replace(self, parametrizations=copied(self.chain))

    def materialised(self, state: Mapping[str, Tensor] | None = None) -> Tensor:
        """The dense weight, without a graph; contiguous if the tensor has parametrizations.

        Copies of the parametrizations compute it, so that statistics, such as those of spectral norm, do not change.

        Args:
            state: A state dict of the chain, to use instead of the present values.
        """
        if self.parametrizations is None:
            return self.first_stored.data
        with torch.inference_mode(False), torch.no_grad():
            twin = self.copied()
            if state is not None:  # buffers are copied, since a forward pass may write into them
                own = {key: value if key in self.stored else copy.deepcopy(value) for key, value in state.items()}
                twin.chain.load_state_dict(own, assign=True)
            weight: Tensor = twin.chain()
        return weight.detach().contiguous()

    def inverted_entries(self, entries: Tensor) -> Tensor | None:
        """The stored tensor for a weight with these entries, projected onto the sets of all steps after the first.

        Returns:
            None if a step needs the dense weight. In that case, call `inverted` with the dense weight.
        """
        first, *later = self.steps
        places = first.places(entries) if isinstance(first, Parametrization) and first.selects else None
        found: Tensor | None = entries
        for step in reversed(later):
            if places is None or found is None or not isinstance(step, Parametrization):
                return None
            found = step.invert_entries(found, places)
        return None if places is None else found

    def inverted(self, weight: Tensor, *, project: bool) -> dict[str, Tensor]:
        """The stored tensors for a weight, by PyTorch's names; `inverses.inverted` describes arguments and errors."""
        value = inverted(self.steps, weight, project=project)
        return dict(zip(self.stored, [value] if self.chain.is_tensor else value, strict=True))


def entries_of(chain: nn.Module) -> Tensor | None:
    """The argument ``x`` for the ``linear`` of the first parametrization, after all later parametrizations.

    Returns:
        The stored tensor, after each later parametrization has changed its entries; the dense weight is not computed.
        With later parametrizations, None if any is third-party, if the first does not store entries of the weight, if
        a later one needs the whole weight, or under `torch.jit.trace`.
    """
    x = stored_in(chain)
    first, *others = children(chain).values()
    if not others:
        return x
    if not isinstance(first, Parametrization) or is_traced():  # `on_entries` compares sizes: tensors in a trace
        return None
    places, entries = first.places(x), x
    for step in others:
        if places is None or not isinstance(step, Parametrization):
            return None
        found = step.on_entries(entries, places)
        if found is None:
            return None
        entries = found
    return entries


def stored_in(chain: nn.Module) -> Tensor:
    """The stored tensor ``original`` of a chain, read without the slow attribute lookup of modules."""
    x: Any = parameters(chain).get("original")
    x = chain.original if x is None else x  # it may be a buffer
    stored: Tensor = x
    return stored


def slots(model: nn.Module) -> list[Slot]:
    """One slot for each parameter or constrained tensor of a model; owners of a tied plain parameter have one each."""
    found: dict[object, Slot] = {}
    for prefix, module, lists in _plain_modules(model):
        names = [name for name, parameter in parameters(module).items() if parameter is not None]
        for tensor_name in (*names, *lists):
            name, holder = full_name(prefix, tensor_name), (module, tensor_name)
            key = ties(lists[tensor_name])[0] if tensor_name in lists else holder
            if key not in found:
                found[key] = Slot([name], module, tensor_name, lists.get(tensor_name))
                continue
            found[key].names.append(name)
            if holder not in found[key].holders:
                found[key].others.append(holder)
    return list(found.values())


def constrained(model: nn.Module) -> list[Slot]:
    """A slot for each parametrized tensor of a model, third-party parametrizations included."""
    return [slot for slot in slots(model) if slot.parametrizations is not None]


def slots_of(module: nn.Module, prefix: str = "") -> list[Slot]:
    """The constrained tensors of one module, without its children. Their names start with ``prefix``."""
    return [Slot([f"{prefix}{name}"], module, name, chain) for name, chain in chains(module).items()]


def full_name(prefix: str, name: str) -> str:
    """The full name of a tensor or module ``name`` in the module with the full name ``prefix``."""
    return f"{prefix}.{name}" if prefix else name


def tied_names(every: Sequence[Slot]) -> dict[object, list[str]]:
    """For each stored tensor that several slots share, by its `identity`: the names of these slots.

    A layer outside the model counts, too, if it shares a parametrization with the model: as ``(a layer elsewhere)``.
    """
    owners = [(slot.parametrizations or slot.holders[0], slot.stored, slot.name) for slot in every]
    for slot in every:
        others = set(others_with(slot.chain)) - set(ties(slot.chain)) if slot.parametrizations is not None else ()
        owners += [(other, originals(other), "(a layer elsewhere)") for other in others]
    found: dict[object, dict[object, str]] = {}
    for owner, stored, name in owners:
        for tensor in stored.values():
            found.setdefault(identity(tensor), {}).setdefault(owner, name)
    return {key: list(names.values()) for key, names in found.items() if len(names) > 1}


def identity(tensor: Tensor) -> object:
    """A hashable key, equal for tensors at the same memory address, such as tied parameters."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    return tensor.data_ptr() if plain and not tensor.is_meta and tensor.numel() > 0 else id(tensor)


def plain_order(module: nn.Module) -> list[str]:
    """The names of the tensors of the plain module in their original order, parameters before buffers.

    If PyTorch's own function constrained the module first, the order is lost. Then constrained tensors are assumed to
    come first, as weights do in PyTorch's layers. For recurrent layers, `recurrent_names` gives the order.
    """
    stored = {name: next(iter(originals(chain).values())) for name, chain in chains(module).items()}
    known = getattr(module.get_submodule("parametrizations"), ORDER, None)
    first = known or (recurrent_names(module) if isinstance(module, nn.RNNBase) else [])
    present = [*stored, *parameters(module), *buffers(module)]
    names = [name for name in dict.fromkeys([*first, *present]) if name in present]
    stored_buffers = [name for name, tensor in stored.items() if not isinstance(tensor, nn.Parameter)]
    return sorted(names, key=lambda name: name in stored_buffers or name in buffers(module))


def _plain_modules(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module, dict[str, ParametrizationList]]]:
    """Every module except parametrizations as (name, module, chains); a shared module once for each of its names."""
    own = chains(model)
    yield name, model, own
    for child_name, child in children(model).items():
        if child is not None and not (own and child_name == "parametrizations"):
            yield from _plain_modules(child, full_name(name, child_name))
