"""Every private name of torch that is used: there is no public one that tells or does the same.

The tests fail when a release changes what one of them means, and when one is used anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

__all__ = [
    "LBFGS_SIZE",
    "UNFUSED",
    "active_wrapper",
    "answered_from_cache",
    "are_transforms_active",
    "as_own",
    "buffers",
    "children",
    "contents",
    "dispatch_modes",
    "flat_weights",
    "forward_levels",
    "give_versions",
    "hooks_of",
    "is_autocast_anywhere",
    "is_legacy_batched",
    "is_placeholder",
    "is_traced",
    "load_hooks",
    "parameters",
    "recurrent_names",
    "share_memory",
    "shell",
    "single_step",
    "untouched_by_torch_function",
]


def children(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's children, to look into without ``__getattr__``, and to put in order."""
    return module._modules


def parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters, to put in order; the public ways leave out what is None."""
    return module._parameters


def single_step(module: nn.Module, name: str) -> tuple[nn.Module | None, Tensor | None]:
    """The parametrization of a tensor that has one, and its stored parameter; None where it is not as simple as that.

    In one function, since a small layer takes as long as it takes to look around.
    """
    chain = module._modules["parametrizations"]._modules.get(name)  # type: ignore[union-attr]
    if chain is None or len(chain._modules) != 1:
        return None, None
    return chain._modules["0"], chain._parameters.get("original")


def buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers."""
    return module._buffers


def load_hooks(module: nn.Module) -> dict[Any, Any]:
    """The hooks that run before a module loads, to be the last of them, or to drop one without its handle."""
    return module._load_state_dict_pre_hooks


def hooks_of(module: nn.Module) -> list[dict[Any, Any]]:
    """What a module has of each kind of hook, to copy it without them: a hook may hold all of a model, or a file."""
    return [held for name, held in vars(module).items() if name.endswith("_hooks") and isinstance(held, dict)]


def recurrent_names(module: nn.RNNBase) -> list[str]:
    """The names of a recurrent layer's weights, in their order; layers and directions are in it."""
    return module._flat_weights_names


def flat_weights(module: nn.RNNBase) -> list[Any]:
    """The list from which a recurrent layer computes, in the order of `recurrent_names`."""
    return module._flat_weights


def give_versions(state_dict: Any, versions: dict[str, Any]) -> None:
    """Write the versions of the modules on a state dict, where ``load_state_dict`` looks for them."""
    state_dict._metadata = versions


LBFGS_SIZE = ("_numel_cache", None)
"""The attribute and the value with which `LBFGS` counts the entries of its parameters again."""
UNFUSED = ("_step_supports_amp_scaling", False)
"""The attribute and the value with which `GradScaler` unscales gradients, as for an optimizer that is not fused."""


def active_wrapper() -> DistributedDataParallel | None:
    """What averages the gradients of the forward pass that is running, if anything does."""
    wrapper: DistributedDataParallel | None = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    return wrapper


def answered_from_cache() -> dict[Any, Tensor | None] | None:
    """The cache of `parametrize.cached`, inside of such a block; what its keys are is up to who asks."""
    return parametrize._cache if parametrize._cache_enabled else None


def is_placeholder(entry: object) -> bool:
    """Whether `set_model_state_dict` put this in the place of extra state that a checkpoint lacks."""
    kind = type(entry)  # by its name: the module takes long to import, and who is given one has imported it
    return (kind.__module__, kind.__name__) == ("torch.distributed.checkpoint.state_dict", "_EXTRA_STATE")


def contents(tensor: Tensor) -> tuple[int, int, bool]:
    """Tells a tensor from what it is after a change: of its numbers, of their memory, or of whether it is trained.

    How often numbers were changed in place is not counted in inference mode.
    """
    version = 0 if tensor.is_inference() else tensor._version
    return version, 0 if are_transforms_active() else tensor.data_ptr(), tensor.requires_grad


def is_traced() -> bool:
    """Whether `torch.jit.trace` is at work, for which sizes are tensors; `torch.jit.is_tracing` is slower."""
    return torch._C._get_tracing_state() is not None


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are views of the same memory."""
    same: bool = torch._C._is_alias_of(one, other)  # type: ignore[attr-defined]
    return same


def as_own(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor whose memory nobody else holds, in another shape and no view, as matrix products return theirs.

    A view that an autograd function returns cannot be changed in place, and FSDP2 loses sight of one that is.
    """
    own: Tensor = torch.ops.aten._unsafe_view(tensor, shape)
    return own


def forward_levels() -> int:
    """The number of nested `torch.func.jvp` transforms."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack)


def shell(kind: type[Tensor], shape: Size, like: Tensor) -> Any:
    """A tensor of a subclass that has a shape, a dtype and a device, and no memory."""
    return Tensor._make_wrapper_subclass(kind, shape, dtype=like.dtype, device=like.device)


# Asked at every step of a small layer, whose time is that of such questions: so not by a function around each.
are_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of `torch.func` is at work."""
is_legacy_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
"""Whether autograd runs one backward pass for many gradients: by the predecessor of `torch.func.vmap`."""
is_autocast_anywhere: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether autocast is on for any device; to ask for one is ten times slower."""
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many modes see each operation, as `make_fx`, ``FakeTensorMode`` and ``FlopCounterMode`` do."""

untouched_by_torch_function: Any = torch._C._disabled_torch_function_impl
"""For a subclass whose operations are to arrive at ``__torch_dispatch__`` as they are."""
