"""The places in a model where a tensor can be constrained, by the names that the plain model gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from parametrizations.chains import chains, originals

__all__ = ["GATHER", "Place", "constrained_modules", "is_sharded", "parameter_places", "plain_modules"]


GATHER = (
    "Gather the checkpoint with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True))"
)
"""What to do with a sharded model, in errors."""


class Place(NamedTuple):
    """A tensor of a module. The name is the one that it has, or had, in the plain model."""

    name: str
    module: nn.Module
    tensor_name: str

    @property
    def stored(self) -> list[Tensor]:
        """The tensors that are stored and trained at this place: one, unless a foreign parametrization has more."""
        chain = chains(self.module).get(self.tensor_name)
        if chain is None:
            return [self.module.get_parameter(self.tensor_name)]
        return list(originals(chain).values())


def plain_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module of the plain model, under each of its names; none that belongs to a parametrization."""
    inside = {part for module in model.modules() if is_parametrized(module) for part in _parts(module)}
    for name, module in model.named_modules(remove_duplicate=False):
        if module not in inside:
            yield name, module


def constrained_modules(model: nn.Module) -> dict[nn.Module, str]:
    """The modules with a parametrized tensor, each with its first name."""
    found: dict[nn.Module, str] = {}
    for name, module in plain_modules(model):
        if is_parametrized(module):
            found.setdefault(module, name)
    return found


def parameter_places(model: nn.Module) -> Iterator[Place]:
    """Every parameter, and everything that is constrained already, under each of its names."""
    for prefix, module in plain_modules(model):
        names = [name for name, parameter in module._parameters.items() if parameter is not None]
        for name in [*names, *chains(module)]:
            yield Place(f"{prefix}.{name}" if prefix else name, module, name)


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is spread over several processes."""
    return hasattr(tensor, "placements") and hasattr(tensor, "full_tensor")


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    return module.get_submodule("parametrizations").modules()
