"""`bake`: a plain model with the same output."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from parametrizations._checks import by_signature
from parametrizations._models.changes import Changes
from parametrizations._models.constrained import Slot, entries_of, identity, plain_order, slots, tied_names
from parametrizations._models.layer import constrained_class, has_fused_forward
from parametrizations._models.matching import Key, constrained_by
from parametrizations._models.optimizers import leave_inference, renew, require_optimizer
from parametrizations._models.sizes import require_present, require_room
from parametrizations._products.choice import PRECISE
from parametrizations._products.csr import HAS_MKL, csr_tensor
from parametrizations._torch.chains import TIES, spare_graphs, ties
from parametrizations._torch.parameters import GATHER, is_sharded
from parametrizations._torch.private import buffers, children, flat_weights, load_hooks, parameters, recurrent_names
from parametrizations._torch.shared_class import can_share, plain_class

Model = TypeVar("Model", bound=nn.Module)


@by_signature
def bake(
    model: Model,
    patterns: Key | Iterable[Key] | None = None,
    *,
    inplace: bool = False,
    optimizer: Optimizer | None = None,
    layout: torch.layout = torch.strided,
) -> Model:
    """A model without parametrizations and with the same output, to export, pickle, script, quantize or ship.

    All parametrizations are removed, also third-party ones, from parameters and from buffers. ``patterns`` restricts
    this, for instance to keep PyTorch's ``weight_norm`` in a model. Parameters are in the order of the plain model. A
    parameter that replaces a constrained tensor has no gradient.

    Before ``inplace=True``, call ``backward`` on earlier losses: their graphs refer to the old parameters. Pass the
    optimizer, or create a new one afterwards: an old fused optimizer writes out of bounds.

    Args:
        model: Unchanged unless ``inplace``. It may be in the middle of training.
        patterns: The tensors to bake, each with all of its parametrizations: a pattern of full plain names, a class of
            layers, or several of these; or the rules for `register`, without those of None; None for all tensors.
        inplace: Whether to change the model itself. A single stored tensor becomes the plain parameter, the same object
            with the weight's shape. If other layers share the stored tensor, the parameter is new. Tensors created in
            inference mode cannot be trained, so they are replaced.
        optimizer: With ``inplace``, the optimizer of the model. Parameters that replace constrained tensors lose their
            state, others do not. LBFGS loses its history, which is one for all.
        layout: `torch.sparse_csr` for inference: weights of `nn.Linear` become sparse, even if they are too large to be
            dense, and cannot be trained. `torch.nn.functional.linear` multiplies with them on CPUs, by MKL, in float32
            and float64. PyTorch cannot deep-copy or convert such a model: see the page *Very large weights*.

    Returns:
        The plain copy; the same model if ``inplace``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``patterns`` is empty, or one matches no constrained tensor; if the dense weights exceed the
            memory; if the model is sharded; if an optimizer is given without ``inplace``, or has none of the
            parameters; or if a weight cannot have the layout. The model is then unchanged.

    Example:
        >>> import torch
        >>> from parametrizations import Diagonal, register
        >>> model = register(nn.Sequential(nn.Linear(3, 3)), {"0.weight": Diagonal()})
        >>> plain = bake(model)
        >>> type(plain[0]), list(plain.state_dict())
        (<class 'torch.nn.modules.linear.Linear'>, ['0.weight', '0.bias'])
        >>> input = torch.ones(1, 3)
        >>> torch.allclose(plain(input), model(input))
        True
    """
    chosen = constrained_by("bake", model, patterns)
    require_optimizer(optimizer, "bake", {name: tensor for slot in chosen for name, tensor in slot.trained.items()})
    if optimizer is not None and not inplace:
        raise ValueError(
            "bake needs inplace=True to change an optimizer. Got inplace=False. Leave the optimizer out for a copy."
        )
    require_present(chosen, "bake", model)
    _require_bakeable(chosen)
    if layout is torch.strided:
        require_room(chosen, "bake")
    else:
        _require_sparse(chosen, layout, optimizer)
    with torch.inference_mode(False):  # the baked model outlives a caller's block of inference mode
        names = {slot.name for slot in chosen}
        model = model if inplace else _copy(model)
        _changes(model, names, optimizer, layout).commit()
    return model


def _changes(model: nn.Module, names: Set[str], optimizer: Optimizer | None, layout: torch.layout) -> Changes:
    changes = Changes()
    replaced = leave_inference(changes, model, optimizer)
    every = slots(model)
    tied, kept = tied_names(every), _kept(every, names)
    for slot in [slot for slot in every if slot.name in names]:
        sparse = layout is torch.sparse_csr
        tensor = _sparse_tensor(slot) if sparse else _plain_tensor(changes, slot, tied, replaced)
        for module, name in slot.holders:
            _restore(changes, module, name, tensor)
        gone: list[Tensor] = []
        shared: list[Tensor] = []  # other layers, inside or outside the model, use them, too
        for old in [old for old in slot.trained.values() if id(old) not in kept]:
            (shared if _is_shared(slot, old, tied) else gone).append(replaced.get(id(old), old))
        renew(changes, optimizer, gone, {slot.name: tensor}, shared)
    return changes


def _kept(every: Sequence[Slot], names: Set[str]) -> set[int]:
    """The ids of parameters that stay in the model and its optimizer, even if a baked tensor uses them, too.

    Such parameters are plain, or belong to a step of a tensor outside ``names``. Stored tensors of chains do not count.
    """
    kept: set[int] = set()
    for slot in every:
        if slot.parametrizations is None:
            kept |= {id(tensor) for tensor in slot.stored.values()}
        elif slot.name not in names:
            kept |= {id(tensor) for tensor in slot.trained.values()} - {id(tensor) for tensor in slot.stored.values()}
    return kept


def _copy(model: Model) -> Model:
    memo: dict[int, Any] = {}
    for module in model.modules():
        spare_graphs(memo, vars(module).values())
    return copy.deepcopy(model, memo)


def _require_bakeable(chosen: Iterable[Slot]) -> None:
    for slot in chosen:
        if any(map(is_sharded, slot.stored.values())) or not all(can_share(module) for module, _ in slot.holders):
            raise ValueError(
                f"bake needs an unsharded model. Got {type(slot.module).__name__} with {slot.name!r}. "
                f"{GATHER}, convert it by plain_state_dict(model, gathered), and load the result into a plain model."
            )


def _require_sparse(chosen: Iterable[Slot], layout: torch.layout, optimizer: Optimizer | None) -> None:
    if layout is not torch.sparse_csr or optimizer is not None:
        got = f"{layout!r} with an optimizer" if layout is torch.sparse_csr else repr(layout)
        raise ValueError(
            "bake needs layout=torch.strided, or torch.sparse_csr without an optimizer, for inference. Got "
            f"{got}. Leave layout out for dense weights."
        )
    for slot in chosen:
        first = slot.first_stored
        if not HAS_MKL or not first.is_cpu or first.dtype not in PRECISE:
            raise ValueError(
                f"bake needs float32 or float64 on a CPU, and MKL, for layout=torch.sparse_csr. Got {slot.name!r} in "
                f"{first.dtype} on {first.device}, {'with' if HAS_MKL else 'without'} MKL. Leave layout out."
            )
        linear = all(isinstance(module, nn.Linear) and name == "weight" for module, name in slot.holders)
        if not linear or not slot.shape.numel() or not slot.is_compact or entries_of(slot.chain) is None:
            raise ValueError(
                "bake needs non-empty weights of nn.Linear that store some entries, not all, for "
                f"layout=torch.sparse_csr. Got {slot.name!r} of {plain_class(slot.module).__name__} with {slot.kinds}. "
                f"Bake this one first, without layout, model = bake(model, {slot.name!r}), and then the others."
            )


def _sparse_tensor(slot: Slot) -> Tensor:
    with torch.no_grad():
        entries: Any = entries_of(slot.chain)
    first: Any = slot.steps[0]
    order = first.places(entries).positions().sort()
    values = entries.index_select(0, order.indices)
    return nn.Parameter(csr_tensor(slot.shape, order.values, values), requires_grad=False)


def _plain_tensor(
    changes: Changes, slot: Slot, tied: Mapping[object, object], replaced: Mapping[int, Tensor]
) -> Tensor:
    """The tensor of the plain module: the stored tensor with new data, or a new tensor.

    The tensor is new if the chain stores several tensors, if the stored tensor has another dtype than the weight, or if
    other layers use the stored tensor, too.
    """
    weight, first = slot.materialised(), slot.first_stored
    if len(slot.stored) == 1 and first.dtype == weight.dtype and not _is_shared(slot, first, tied):
        kept = replaced.get(id(first), first)
        changes.data(kept, weight)
        return kept
    trained = any(tensor.requires_grad for tensor in slot.stored.values())
    return nn.Parameter(weight, trained) if isinstance(first, nn.Parameter) else weight


def _is_shared(slot: Slot, tensor: Tensor, tied: Mapping[object, object]) -> bool:
    """Whether other layers, inside or outside the model, use a stored tensor, too."""
    return identity(tensor) in tied or len(ties(slot.chain)) > len(slot.holders)


def _restore(changes: Changes, module: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a module the plain tensor in its original order, and a class without the tensor's parametrizations."""
    lists = changes.draft(children(module.get_submodule("parametrizations")))
    chain = lists.pop(name)
    if hasattr(chain, TIES):
        changes.draft(getattr(chain, TIES)).remove(chain)
    kind = constrained_class(module, lists, fused=has_fused_forward(module)) if lists else plain_class(module)
    changes.attribute(module, "__class__", kind)
    if not lists:
        del changes.draft(children(module))["parametrizations"]
        _drop_hooks(changes, module)
    stores: list[dict[str, Any]] = [changes.draft(parameters(module)), changes.draft(buffers(module))]
    stores[not isinstance(tensor, nn.Parameter)][name] = tensor
    for each in plain_order(module):
        for store in stores:
            if each in store:
                store[each] = store.pop(each)
    if isinstance(module, nn.RNNBase):
        changes.draft(flat_weights(module))[recurrent_names(module).index(name)] = tensor


def _drop_hooks(changes: Changes, module: nn.Module) -> None:
    """Collect the removal of load hooks of PyTorch's weight_norm, which convert checkpoints and cannot be pickled."""
    for key, hook in load_hooks(module).items():
        if hook.hook.__module__ == torch.nn.utils.parametrizations.__name__:
            del changes.draft(load_hooks(module))[key]
