"""`bake`: a plain model with the same output."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer

from parametrizations._models.optimizers import renew, require_optimizer
from parametrizations._models.order import plain_order
from parametrizations._models.places import constrained_modules, constrained_places, full_name, identity, owners
from parametrizations._models.rollback import all_or_nothing
from parametrizations._models.sizes import require_room
from parametrizations._torch.chains import build, chains, originals
from parametrizations._torch.graphs import spare_graphs
from parametrizations._torch.parameters import give
from parametrizations._torch.private import buffers, children, load_hooks, parameters
from parametrizations._torch.sharding import GATHER, is_sharded
from parametrizations._torch.shared_class import can_share, plain_class

__all__ = ["bake"]

Model = TypeVar("Model", bound=nn.Module)


def bake(model: Model, *, inplace: bool = False, optimizer: Optimizer | None = None) -> Model:
    """A model without any parametrization and with the same output: to export, pickle, script, quantize, or ship.

    Every parametrization is baked, whoever wrote it, on parameters and on buffers. Parameters stand in their original
    order, and what was constrained has no gradient.

    Args:
        model: Left as it is, also in training, unless ``inplace``.
        inplace: Whether to change the model itself. Each parameter keeps its identity, but not its shape:
            an optimizer that holds state for it has to be given here, or made anew (a fused one would write
            out of bounds), and ``backward`` of a loss that was computed before has to be called before.
        optimizer: With ``inplace``, the optimizer of the model: the state of exactly the baked parameters is dropped.

    Returns:
        The plain copy; the same model if ``inplace``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a dense weight is larger than the memory, the model is sharded over processes, or an optimizer is
            given without ``inplace`` or has none of the parameters. Nothing has changed then.

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
    if optimizer is not None:
        stored = model.named_parameters()
        require_optimizer(optimizer, "bake", {name: tensor for name, tensor in stored if "parametrizations." in name})
    if optimizer is not None and not inplace:
        raise ValueError(
            "bake needs inplace=True to change an optimizer. Got a copy to make. Leave one of the two out."
        )
    _require_bakeable(model)
    return _baked(model, inplace, optimizer)


@torch.inference_mode(False)  # the baked model outlives the block that it is made in
def _baked(model: Model, inplace: bool, optimizer: Optimizer | None) -> Model:
    model = model if inplace else _copy(model)
    modules, tied = constrained_modules(model), {key for key, names in owners(model).items() if len(names) > 1}
    weights = {chain: build(chain) for _, chain in constrained_places(model)}
    with all_or_nothing(modules, optimizer):
        for module, prefix in modules.items():
            for name, old, new in _restored(module, weights, tied):
                if optimizer is not None:
                    renew(optimizer, old, {full_name(prefix, name): new})
    return model


def _copy(model: Model) -> Model:
    memo: dict[int, Any] = {}
    for module in model.modules():
        spare_graphs(memo, vars(module).values())
    return copy.deepcopy(model, memo)


def _require_bakeable(model: nn.Module) -> None:
    places = list(constrained_places(model))
    for place, _ in places:
        if any(map(is_sharded, place.stored)) or not can_share(place.module):
            raise ValueError(
                f"bake needs a model that is not sharded. Got {type(place.module).__name__} with {place.name!r}. "
                f"{GATHER}, turn it plain with plain_state_dict(model, gathered), and load that into a plain model."
            )
    require_room([(place.name, chain) for place, chain in places], "bake")


def _restored(
    module: nn.Module, weights: dict[ParametrizationList, Tensor], tied: set[object]
) -> Iterator[tuple[str, list[Tensor], Tensor]]:
    """Give one module its class and its tensors back; each tensor with those that it takes the place of."""
    order, baked = plain_order(module), chains(module)
    del children(module)["parametrizations"]
    module.__class__ = plain_class(module)
    _drop_hooks(module)
    for name, chain in baked.items():
        tensor = _plain_tensor(chain, weights[chain], tied)
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, tensor)  # a recurrent layer takes note
        else:
            module.register_buffer(name, tensor)
        yield name, [parameter for parameter in chain.parameters() if identity(parameter) not in tied], tensor
    for tensors in (parameters(module), buffers(module)):
        for name in [name for name in order if name in tensors]:
            _move_to_end(tensors, name)


def _drop_hooks(module: nn.Module) -> None:
    """Drop what PyTorch's own constraints (weight_norm) put there to load old checkpoints; it does not pickle."""
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
