"""All private names of torch that this library uses. They lack public equivalents.

The tests fail if a release changes the meaning of a name, and if another file uses a private name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import _named_member_accessor as swapping
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList


def children(module: nn.Module) -> dict[str, nn.Module | None]:
    """The dictionary of a module's children, read without ``__getattr__``. It can be reordered in place."""
    return module._modules


def parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The dictionary of a module's own parameters, including None entries. It can be reordered in place."""
    return module._parameters


CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The names of the attributes of a module that hold the hooks of a call."""
GLOBAL_HOOKS: tuple[dict[Any, Any], ...] = (
    modules._global_forward_pre_hooks,
    modules._global_forward_hooks,
    modules._global_backward_pre_hooks,
    modules._global_backward_hooks,
)
"""The hooks that every call of any module runs."""


def single_step(module: nn.Module, name: str) -> tuple[nn.Module | None, Tensor | None]:
    """The only parametrization of a tensor, and its stored parameter; or (None, None).

    Both are None if there are several parametrizations, a hook, or a replaced ``forward``. (`is_claimed` ignores hooks
    that only observe.) One function without loops makes all checks: several would take as long as a small layer.
    """
    lists = module._modules.get("parametrizations")  # a wrapper may call the old `forward` of a baked layer
    chain = None if lists is None else lists._modules.get(name)
    if type(chain) is not ParametrizationList or len(chain._modules) != 1:
        return None, None
    step = chain._modules["0"]
    own, its = chain.__dict__, step.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return None, None
    if its["_forward_hooks"] or its["_forward_pre_hooks"] or its["_backward_hooks"] or its["_backward_pre_hooks"]:
        return None, None
    if "forward" in own or "forward" in its or any(GLOBAL_HOOKS):
        return None, None
    return step, chain._parameters.get("original")


def is_claimed(chain: nn.Module) -> bool:
    """Whether a call of a `ParametrizationList` would run more than the ``forward`` of its parametrizations.

    Such code is a hook, or a replaced ``forward``, as accelerate sets to offload tensors. A product that only reads
    the stored tensor would not run the hook or the replaced ``forward``. Hooks of this library, and PyTorch's own hooks
    on all modules, do not count, since they only observe.
    """
    if type(chain) is not ParametrizationList:
        return True
    parts = [vars(part) for part in (chain, *chain._modules.values()) if part is not None]
    found = [hook for part in parts for kind in CALL_HOOKS for hook in part[kind].values()]
    if any("forward" in part for part in parts) or not all(_is_from("parametrizations.", hook) for hook in found):
        return True
    return not all(_is_from("torch.", hook) for hooks in GLOBAL_HOOKS for hook in hooks.values())


def _is_from(package: str, hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(package)


def buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The dictionary of a module's own buffers."""
    return module._buffers


def own_attributes(module: nn.Module) -> dict[str, object]:
    """The attributes of a module, without its stores of parameters, buffers, children and recurrent weights."""
    kept = {"_parameters", "_buffers", "_modules"} | ({"_flat_weights"} if isinstance(module, nn.RNNBase) else set())
    return {name: value for name, value in vars(module).items() if name not in kept}


def load_hooks(module: nn.Module) -> dict[Any, Any]:
    """The dictionary of a module's pre-hooks of loading, to append a hook, or to remove a hook without its handle."""
    return module._load_state_dict_pre_hooks


def hooks_of(module: nn.Module) -> list[dict[Any, Any]]:
    """The dictionaries of a module's hooks, one for each kind. `tune` empties them while it times a layer."""
    return [held for name, held in vars(module).items() if name.endswith("_hooks") and isinstance(held, dict)]


def recurrent_names(module: nn.RNNBase) -> list[str]:
    """The names of the weights and biases of a recurrent layer, ordered by layer and direction."""
    return module._flat_weights_names


def flat_weights(module: nn.RNNBase) -> list[Any]:
    """The weights that a recurrent layer uses, in the order of `recurrent_names`."""
    return module._flat_weights


def give_versions(state_dict: Any, versions: dict[str, Any]) -> None:
    """Attach the versions of the modules to a state dict, for ``load_state_dict``."""
    state_dict._metadata = versions


LBFGS_SIZE = ("_numel_cache", None)
"""The attribute and the value that make `LBFGS` count the entries of its parameters again."""
UNFUSED = ("_step_supports_amp_scaling", False)
"""Name and value of an attribute. Set on a formerly fused optimizer, they make `GradScaler` unscale the gradients, as
for an optimizer without ``fused``."""


def active_wrapper() -> DistributedDataParallel | None:
    """The `DistributedDataParallel` module of the running forward pass, or None. It will average the gradients."""
    active: Any = DistributedDataParallel._get_active_ddp_module
    wrapper: DistributedDataParallel | None = active()
    return wrapper


def answered_from_cache() -> dict[Any, Tensor | None] | None:
    """The cache of `parametrize.cached`, or None outside of such a block. The caller chooses the keys.

    Activation checkpointing runs a part of the forward pass a second time, during the backward pass, which is usually
    outside of the block. Both runs must save the same tensors, so neither may use the cache: the result is None in the
    first run and in the second. It is also None in compiled code.
    """
    if not parametrize._cache_enabled or torch.compiler.is_compiling() or _is_run_twice():
        return None
    return parametrize._cache


def _is_run_twice() -> bool:
    """Whether `torch.utils.checkpoint` will run the current code again, or a backward pass is running the code now."""
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    by_checkpoint = hooks is not None and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint"
    return by_checkpoint or torch._C._current_graph_task_id() != -1


def clear_cache() -> None:
    """Clear the cache of `parametrize.cached`."""
    parametrize._cache.clear()


def is_placeholder(entry: object) -> bool:
    """Whether this is the placeholder of `set_model_state_dict` for missing extra state."""
    kind = type(entry)  # by name, since the module takes long to import
    return (kind.__module__, kind.__name__) == ("torch.distributed.checkpoint.state_dict", "_EXTRA_STATE")


def contents(tensor: Tensor) -> tuple[int, int, bool]:
    """A tuple that differs after a change of the tensor's numbers, its memory or its ``requires_grad``.

    PyTorch does not count in-place changes of inference-mode tensors, so they are not noticed.
    """
    version = 0 if tensor.is_inference() else tensor._version
    return version, 0 if are_transforms_active() else tensor.data_ptr(), tensor.requires_grad


def is_swapped() -> bool:
    """Whether `torch.func.functional_call` called the running code to replace a tensor of a module."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code is not swapping.swap_tensor.__code__:
        frame = frame.f_back
    return frame.f_code is swapping.swap_tensor.__code__


def is_traced() -> bool:
    """Whether `torch.jit.trace` is active. Sizes are then tensors. `torch.jit.is_tracing` is slower."""
    return torch._C._get_tracing_state() is not None


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same storage, as a tensor and its views have."""
    return bool(torch._C._is_alias_of(one, other))  # type: ignore[attr-defined]


def as_own(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor in another shape, not marked as a view. No other tensor may use its memory.

    A view that an autograd function returns cannot be changed in place, and FSDP2 loses track of the view.
    """
    own: Tensor = torch.ops.aten._unsafe_view(tensor, shape)
    return own


def forward_levels() -> int:
    """The number of nested `torch.func.jvp` transforms."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack)


def shell(kind: type[Tensor], shape: Size, like: Tensor) -> Any:
    """A tensor of the subclass ``kind``, with the dtype and the device of ``like``, but without memory."""
    return Tensor._make_wrapper_subclass(kind, shape, dtype=like.dtype, device=like.device)


# Direct aliases: every step of a small layer calls them, and Python functions around them would dominate the time.
are_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of `torch.func` is active."""
is_legacy_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
"""Whether a tensor is batched by the predecessor of `torch.func.vmap`, as gradients are by ``is_grads_batched``."""
is_autocast_anywhere: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether autocast is on for any device. A query for a single device is ten times slower."""
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""The number of modes that observe operations, such as `make_fx`, ``FakeTensorMode`` and ``FlopCounterMode``."""

untouched_by_torch_function: Any = torch._C._disabled_torch_function_impl
"""The ``__torch_function__`` of a subclass that passes its operations unchanged to ``__torch_dispatch__``."""
