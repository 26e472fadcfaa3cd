"""The places in a model where a tensor can be constrained, by the names that the plain model gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch.chains import chains, originals
from parametrizations._torch.owners import others_with
from parametrizations._torch.private import children, parameters

__all__ = [
    "Place",
    "constrained_modules",
    "constrained_places",
    "full_name",
    "identity",
    "owners",
    "parameter_places",
]


class Place(NamedTuple):
    """A tensor of a module. The name is the one that it has, or had, in the plain model."""

    name: str
    module: nn.Module
    tensor_name: str

    @property
    def owner(self) -> object:
        """What holds the tensor, however many names the module has: its parametrizations, or the module, by name."""
        return chains(self.module).get(self.tensor_name) or (self.module, self.tensor_name)

    @property
    def stored(self) -> list[Tensor]:
        """The tensors that are stored and trained at this place: one, unless a foreign parametrization has more."""
        chain = chains(self.module).get(self.tensor_name)
        if chain is None:
            parameter = parameters(self.module)[self.tensor_name]
            return [] if parameter is None else [parameter]
        return list(originals(chain).values())

    @property
    def trained(self) -> dict[str, Tensor]:
        """What is trained where the tensor is constrained, by its names in the constrained model."""
        prefix = f"{self.name.removesuffix(self.tensor_name)}parametrizations.{self.tensor_name}"
        return dict(chains(self.module)[self.tensor_name].named_parameters(prefix))


def full_name(prefix: str, name: str) -> str:
    """The name of what a module holds, by the name of the module."""
    return f"{prefix}.{name}" if prefix else name


def plain_modules(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module of the plain model, under each of its names; not those that only hold parametrizations."""
    yield name, model
    hidden = "parametrizations" if chains(model) else None
    for child_name, child in children(model).items():
        if child is not None and child_name != hidden:
            yield from plain_modules(child, full_name(name, child_name))


def constrained_modules(model: nn.Module) -> dict[nn.Module, str]:
    """The modules with a parametrized tensor, each with its first name."""
    found: dict[nn.Module, str] = {}
    for name, module in plain_modules(model):
        if chains(module):
            found.setdefault(module, name)
    return found


def parameter_places(model: nn.Module) -> Iterator[Place]:
    """Every parameter, and everything that is constrained already, under each of its names."""
    for prefix, module in plain_modules(model):
        names = [name for name, parameter in parameters(module).items() if parameter is not None]
        for name in [*names, *chains(module)]:
            yield Place(full_name(prefix, name), module, name)


def constrained_places(model: nn.Module) -> Iterator[tuple[Place, ParametrizationList]]:
    """Everything that is constrained, under its first name, with its parametrizations."""
    for module, prefix in constrained_modules(model).items():
        for name, chain in chains(module).items():
            yield Place(full_name(prefix, name), module, name), chain


def owners(model: nn.Module) -> dict[object, list[str]]:
    """The names of the places that share a stored tensor, by `identity`; a module under two names is one place.

    A place elsewhere is among them if it shares a parametrization, too.
    """
    found: dict[object, dict[object, str]] = {}
    places = list(parameter_places(model))
    for place in places:
        for tensor in place.stored:
            found.setdefault(identity(tensor), {}).setdefault(place.owner, place.name)
    for owner in {place.owner: None for place in places}:
        for other in others_with(owner) if isinstance(owner, ParametrizationList) else []:
            for tensor in originals(other).values():
                found.setdefault(identity(tensor), {}).setdefault(other, "(a layer elsewhere)")
    return {key: list(names.values()) for key, names in found.items()}


def identity(tensor: Tensor) -> object:
    """A key that is equal for two tensors that share memory: by it tied parameters are found."""
    plain = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta and tensor.numel() > 0
    return tensor.data_ptr() if plain else id(tensor)
