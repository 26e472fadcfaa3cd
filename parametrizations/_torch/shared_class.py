"""One class for all constrained modules of a kind, in place of the class of its own that PyTorch gives each.

`register_parametrization` injects a new class into every module it touches. That costs three things: a
compiled block is traced again for every layer, `torch.func.stack_module_state` refuses the models, and
removing a parametrization from a deep copy deletes the property that the original needs, because the two
share the class. So `register` and `fuse` put a class here that all modules with the same layer class and the
same parametrized names share. It is derived from the layer's class directly, since PyTorch restores
``__bases__[0]`` when the last parametrization goes. It loads plain checkpoints, and initialises what is
stored where the layer has a ``reset_parameters``.

PyTorch still believes that the class belongs to one module: it deletes the property from it on removal, and
sets a new one when a second tensor is registered. The metaclass takes the first in silence and replaces the
second by a property that works for every module of the class. Everything that relies on how
`register_parametrization` treats classes is in this file; its tests fail when a release changes that.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from typing_extensions import override

from parametrizations._torch import answered_from_cache, buffers, children, load_hooks, parameters
from parametrizations.graphs import spare_graphs
from parametrizations.initialization import initialize
from parametrizations.plain_checkpoints import take_plain
from parametrizations.sharding import is_sharded

__all__ = ["can_share", "has_fused_forward", "plain_class", "share"]

_CLASSES: weakref.WeakValueDictionary[tuple[type, frozenset[str], bool], type] = weakref.WeakValueDictionary()


def can_share(module: nn.Module) -> bool:
    """Whether the module's class is PyTorch's or the shared one itself, so that the layer's class is known."""
    own = vars(type(module))
    names = children(module.get_submodule("parametrizations"))
    return len(type(module).__bases__) == 1 and all(isinstance(own.get(name), property) for name in names)


def has_fused_forward(module: nn.Module) -> bool:
    """Whether the module multiplies through its parametrization."""
    return type(module).forward is _fused_forward


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that the module had before anything was registered on it."""
    plain: type[nn.Module] = type(module).__bases__[0]
    return plain


def share(module: nn.Module, *, fused: bool) -> None:
    """Put the shared class in the place of PyTorch's.

    Args:
        module: A module with a parametrized tensor, for which `can_share` holds.
        fused: Whether an `nn.Linear` multiplies through the parametrization of its weight.
    """
    names = frozenset(children(module.get_submodule("parametrizations")))
    module.__class__ = _class_for(plain_class(module), names, fused)


class _Shared(type):
    """The metaclass: keeps what PyTorch does to one module from reaching all of them."""

    @override
    def __delattr__(cls, name: str) -> None:
        if not _is_ours(vars(cls).get(name)):
            super().__delattr__(name)

    @override
    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, _tensor_property(name) if isinstance(value, property) else value)


def _tensor_property(name: str) -> property:
    """The tensor of a name: computed where the module has it parametrized, else the plain one."""
    return property(lambda module: _get(module, name), lambda module, value: _set(module, name, value))


def _is_ours(value: object) -> bool:
    """Told by its module: a subclass of property would stop the tracer of older releases of torch."""
    return isinstance(value, property) and getattr(value.fget, "__module__", None) == __name__


def _class_for(base: type, names: frozenset[str], fused: bool) -> type:
    fused = fused and getattr(base, "forward", None) is nn.Linear.forward and "weight" in names
    shared = _CLASSES.get((base, names, fused))
    if shared is None:
        shared = _CLASSES[base, names, fused] = _make(base, names, fused)
    return shared


def _make(base: Any, names: frozenset[str], fused: bool) -> type:
    members: dict[str, object] = {name: _tensor_property(name) for name in names}
    members["__getstate__"] = _refuse_to_pickle
    members["__module__"] = base.__module__  # or torch.fx traces into what was a leaf
    members["_load_from_state_dict"] = _loader(base._load_from_state_dict)
    if not hasattr(base, "__deepcopy__"):
        members["__deepcopy__"] = _deepcopy
    for name in ("reset_parameters", "_reset_parameters"):  # the second is nn.MultiheadAttention's
        if hasattr(base, name):
            members[name] = _initializer(base, getattr(base, name))
    if fused:
        members["forward"] = _fused_forward
    own = type(base)
    metaclass = _Shared if own is type else type(f"Shared{own.__name__}", (_Shared, own), {})
    made: type = metaclass(f"Parametrized{base.__name__}", (base,), members)
    return made


def _fused_forward(self: Any, input: Tensor) -> Tensor:
    # By the dictionaries: attributes of modules cost a tenth of a small layer's time.
    lists: Any = children(self)["parametrizations"]
    owner: Any = children(lists).get("weight")
    if owner is not None and len(children(owner)) == 1 and owner.is_tensor:
        product = getattr(children(owner)["0"], "linear", None)
        if product is not None:
            return _tensor(product(input, owner.original, self.bias))
    return F.linear(input, self.weight, self.bias)


def _get(module: nn.Module, name: str) -> Any:
    lists: Any = children(module).get("parametrizations")
    if lists is None or name not in children(lists):
        return _get_plain(module, name)
    cache = answered_from_cache()
    if cache is None:
        return _tensor(lists[name]())
    # The key is the module that asks: PyTorch's own answers a deep copy with the original's weight. It is asked for
    # here alone, since a compiler that has seen it compiles anew for each module.
    key = (id(module), name)
    if key not in cache:
        cache[key] = lists[name]()
    return _tensor(cache[key])


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _get_plain(module: nn.Module, name: str) -> Any:
    for store in (parameters(module), buffers(module), module.__dict__):
        if name in store:
            return store[name]
    raise AttributeError(f"{type(module).__name__!r} object has no attribute {name!r}")


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    lists = children(module).get("parametrizations")
    if lists is None or name not in children(lists):
        module.__dict__[name] = value  # what nn.Module leaves to the property is a plain attribute
        return
    owner = children(lists)[name]
    assert isinstance(owner, parametrize.ParametrizationList)
    if any(is_sharded(tensor) for tensor in owner.parameters(recurse=False)):
        raise RuntimeError(
            f"Assigning {name!r} needs what is stored in one piece. Got a tensor that is sharded over processes. "
            "Assign before fully_shard, or load a gathered checkpoint."
        )
    owner.right_inverse(value)


def _loader(load: Callable[..., None]) -> Callable[..., None]:
    def load_plain_too(self: nn.Module, *arguments: Any, **named: Any) -> None:
        hooks = load_hooks(self)
        hooks[take_plain] = functools.partial(take_plain, self)  # last, after what renames or changes the weight
        try:
            load(self, *arguments, **named)
        finally:
            del hooks[take_plain]

    return load_plain_too


def _initializer(base: type[nn.Module], reset: Callable[..., None]) -> Callable[..., None]:
    def reset_parameters(self: nn.Module, *arguments: Any, **named: Any) -> None:
        initialize(self, base, lambda module: reset(module, *arguments, **named))

    return reset_parameters


def _refuse_to_pickle(self: nn.Module) -> None:
    raise RuntimeError(
        f"{type(self).__name__} cannot be pickled, as PyTorch refuses for every parametrized module. "
        "Save its state_dict(), or take the parametrizations off first."
    )


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What `copy.deepcopy` does by itself where ``__getstate__`` does not refuse."""
    twin = type(self).__new__(type(self))
    memo[id(self)] = twin
    plain: Any = plain_class(self)
    state = plain.__getstate__(self)  # without what compile() left, and what the class itself leaves out
    spare_graphs(memo, state.values() if isinstance(state, dict) else [])
    plain.__setstate__(twin, copy.deepcopy(state, memo))
    for slot in copyreg._slotnames(type(self)):  # type: ignore[attr-defined]
        if hasattr(self, slot):
            setattr(twin, slot, copy.deepcopy(getattr(self, slot), memo))
    return twin
