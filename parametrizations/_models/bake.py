"""`bake`: a plain model with the same output."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Set
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

from parametrizations._models.inference import holders, leave_inference
from parametrizations._models.layer import become_constrained, has_fused_forward
from parametrizations._models.matching import constrained_by
from parametrizations._models.optimizers import renew, require_optimizer
from parametrizations._models.order import plain_order
from parametrizations._models.places import (
    Place,
    constrained_modules,
    constrained_places,
    full_name,
    identity,
    owners,
)
from parametrizations._models.rollback import all_or_nothing
from parametrizations._models.sizes import require_room
from parametrizations._torch.chains import build, chain_of, chains, originals
from parametrizations._torch.graphs import spare_graphs
from parametrizations._torch.parameters import give
from parametrizations._torch.private import buffers, children, load_hooks, parameters
from parametrizations._torch.sharding import GATHER, is_sharded
from parametrizations._torch.shared_class import can_share, plain_class

__all__ = ["bake"]

Model = TypeVar("Model", bound=nn.Module)


def bake(
    model: Model,
    patterns: str | Iterable[str] | None = None,
    *,
    inplace: bool = False,
    optimizer: Optimizer | None = None,
) -> Model:
    """A model without any parametrization and with the same output: to export, pickle, script, quantize, or ship.

    Every parametrization is baked, whoever wrote it, on parameters and on buffers. Parameters stand in their original
    order, and what was constrained has no gradient. Where a model has parametrizations of its own, such as PyTorch's
    ``weight_norm``, ``patterns`` leaves them there.

    Args:
        model: Not changed unless ``inplace``, even if it is in the middle of training.
        patterns: Which tensors to bake, each with all that is attached to it: one pattern of full plain names, or
            several, as those that `register` was given (of a mapping, its keys); None for all.
        inplace: Whether to change the model itself. Each parameter keeps its identity, but not its shape:
            an optimizer that holds state for it has to be given here, or made anew (a fused one would write
            out of bounds), and ``backward`` of a loss that was computed before has to be called before. What is tied,
            or shared with a layer elsewhere by PyTorch's `transfer_parametrizations_and_params`, comes apart instead:
            the others keep the tensor, and this model gets one of its own. Tensors that were made in inference mode,
            which cannot be trained, are replaced.
        optimizer: With ``inplace``, the optimizer of the model: the state of exactly the baked parameters is dropped.

    Returns:
        The plain copy; the same model if ``inplace``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no pattern, or one matches nothing that is constrained, a dense weight is larger than
            the memory, the model is sharded over processes, or an optimizer is given without ``inplace`` or has none of
            the parameters. Nothing has changed then.

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
    if not isinstance(model, nn.Module):
        raise TypeError(f"bake needs a model. Got {type(model).__name__}. Pass a torch.nn.Module.")
    chosen = constrained_by("bake", model, patterns)
    if optimizer is not None:
        require_optimizer(
            optimizer, "bake", {name: tensor for place in chosen for name, tensor in place.trained.items()}
        )
    if optimizer is not None and not inplace:
        raise ValueError(
            "bake needs inplace=True to change an optimizer. Got a copy to make. Leave one of the two out."
        )
    _require_bakeable(chosen)
    return _baked(model, {place.name for place in chosen}, inplace, optimizer)


@torch.inference_mode(False)  # the baked model outlives the block that it is made in
def _baked(model: Model, names: Set[str], inplace: bool, optimizer: Optimizer | None) -> Model:
    model = model if inplace else _copy(model)
    weights = {chain: build(chain) for place, chain in constrained_places(model) if place.name in names}
    modules = {
        module: prefix
        for module, prefix in constrained_modules(model).items()
        if not weights.keys().isdisjoint(chains(module).values())
    }
    with all_or_nothing([*modules, *holders(model)], optimizer):
        leave_inference(model, optimizer)
        tied = {key for key, owned in owners(model).items() if len(owned) > 1}
        for module, prefix in modules.items():
            for name, old, new in _restored(module, weights, tied):
                if optimizer is not None:
                    gone = [tensor for tensor in old if identity(tensor) not in tied]
                    shared = [tensor for tensor in old if identity(tensor) in tied]
                    renew(optimizer, gone, {full_name(prefix, name): new}, shared)
        return model


def _copy(model: Model) -> Model:
    memo: dict[int, Any] = {}
    for module in model.modules():
        spare_graphs(memo, vars(module).values())
    return copy.deepcopy(model, memo)


def _require_bakeable(places: list[Place]) -> None:
    for place in places:
        if any(map(is_sharded, place.stored)) or not can_share(place.module):
            raise ValueError(
                f"bake needs a model that is not sharded. Got {type(place.module).__name__} with {place.name!r}. "
                f"{GATHER}, turn it plain with plain_state_dict(model, gathered), and load that into a plain model."
            )
    require_room([(place.name, chain_of(place.module, place.tensor_name)) for place in places], "bake")


def _restored(
    module: nn.Module, weights: dict[ParametrizationList, Tensor], tied: set[object]
) -> Iterator[tuple[str, list[Tensor], Tensor]]:
    """Give one module its class and tensors back; for each its name, the parameters it replaces, and the tensor."""
    order, baked = plain_order(module), {name: chain for name, chain in chains(module).items() if chain in weights}
    _leave(module, baked)
    for name, chain in baked.items():
        tensor = _plain_tensor(chain, weights[chain], tied)
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, tensor)  # a recurrent layer takes note
        else:
            module.register_buffer(name, tensor)
        yield name, list(chain.parameters()), tensor
    for tensors in (parameters(module), buffers(module)):
        for name in [name for name in order if name in tensors]:
            _move_to_end(tensors, name)


def _leave(module: nn.Module, baked: Iterable[str]) -> None:
    """Take the parametrizations of some tensors from a module, and the class that computed them."""
    for name in baked:
        del children(module.get_submodule("parametrizations"))[name]
    if chains(module):
        become_constrained(module, fused=has_fused_forward(module))
    else:
        del children(module)["parametrizations"]
        module.__class__ = plain_class(module)
    _drop_hooks(module)


def _drop_hooks(module: nn.Module) -> None:
    """Drop what PyTorch's own constraints (weight_norm) put there to load old checkpoints; it does not pickle."""
    if chains(module):  # and so does not pickle either
        return
    hooks = load_hooks(module)
    theirs = [key for key, hook in hooks.items() if hook.hook.__module__ == torch.nn.utils.parametrizations.__name__]
    for key in theirs:
        del hooks[key]


def _move_to_end(tensors: dict[str, Any], name: str) -> None:
    tensors[name] = tensors.pop(name)


def _plain_tensor(chain: ParametrizationList, weight: Tensor, tied: set[object]) -> Tensor:
    """The tensor that was stored, with the weight in it; a new one if it was several, of another dtype, or tied."""
    stored = list(originals(chain).values())
    if len(stored) == 1 and stored[0].dtype == weight.dtype and identity(stored[0]) not in tied:
        give(stored[0], weight)
        return stored[0]
    trained = any(tensor.requires_grad for tensor in stored)
    return nn.Parameter(weight, trained) if isinstance(stored[0], nn.Parameter) else weight
