"""One class for all constrained modules of a kind, in place of the class of its own that PyTorch gives each.

`register_parametrization` injects a new class into every module it touches. That costs three things: a
compiled block is traced again for every layer, `torch.func.stack_module_state` refuses the models, and
removing a parametrization from a deep copy deletes the property that the original needs, because the two
share the class. So `register` and `fuse` put a class here that all modules with the same layer class and the
same parametrized names share. It is derived from the layer's class directly, since PyTorch restores
``__bases__[0]`` when the last parametrization goes.

PyTorch still believes that the class belongs to one module. When a parametrization is removed it deletes the
property; the metaclass ignores that, since other modules need it. When a second tensor is registered it sets a
new property; the metaclass puts one in its place that works for every module of the class.

Inside `parametrize.cached()` a tensor is computed once. What is done to the module itself computes it anew: assigning,
loading, initialising, moving it; and so does a change of what is stored, such as a step of an optimizer. What a step
holds beside it, such as a mask that is loaded into a parametrization alone, is not seen there, as with plain PyTorch.

Everything that relies on how `register_parametrization` treats classes is in this file; its tests fail when a release
changes that.
"""

from __future__ import annotations

import copy
import copyreg
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override

from parametrizations._torch.chains import chains
from parametrizations._torch.graphs import spare_graphs
from parametrizations._torch.loops import forget, once
from parametrizations._torch.private import answered_from_cache, buffers, children, parameters
from parametrizations._torch.sharding import is_sharded

__all__ = ["Extend", "can_share", "plain_class", "refuse_to_script", "shared_class"]

Extend = Callable[[type[nn.Module]], Mapping[str, object]]
"""From a layer's class to further members of the one that takes its place."""

_CHANGES = ("_apply", "_load_from_state_dict", "reset_parameters", "_reset_parameters")
"""Methods that change what a module stores."""

_CLASSES: weakref.WeakValueDictionary[tuple[type, frozenset[str], Extend], type] = weakref.WeakValueDictionary()


def can_share(module: nn.Module) -> bool:
    """Whether the module is plain, or has PyTorch's class or the shared one, so that the plain class is known."""
    own, names = vars(type(module)), chains(module)
    return not names or (
        len(type(module).__bases__) == 1 and all(isinstance(own.get(name), property) for name in names)
    )


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module without parametrizations."""
    plain: type[nn.Module] = type(module).__bases__[0] if chains(module) else type(module)
    return plain


def shared_class(plain: type[nn.Module], names: Iterable[str], extend: Extend) -> type[nn.Module]:
    """The class of all modules of a kind with the same constrained tensors.

    Args:
        plain: The class without parametrizations.
        names: The names of the constrained tensors.
        extend: Returns further members of the class. Modules share a class only if this is the same function.
    """
    key = (plain, frozenset(names), extend)
    found: type[nn.Module] | None = _CLASSES.get(key)
    if found is None:
        found = _CLASSES[key] = _make(*key)
    return found


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
    """Whether a property is from this file; older tracers of torch fail on a subclass of property, which would tell."""
    return isinstance(value, property) and getattr(value.fget, "__module__", None) == __name__


def _make(base: Any, names: frozenset[str], extend: Extend) -> type:
    members: dict[str, object] = {name: _tensor_property(name) for name in names}
    members["__getstate__"] = _refuse_to_pickle
    members["__prepare_scriptable__"] = refuse_to_script  # PyTorch asks for it before it compiles anything
    members["__module__"] = base.__module__  # or torch.fx traces into what was a leaf
    if not hasattr(base, "__deepcopy__"):
        members["__deepcopy__"] = _deepcopy
    members["register_parameter"] = _parameter_setter(base)
    members |= extend(base)
    members |= {name: _forgetting(members.get(name) or getattr(base, name)) for name in _CHANGES if hasattr(base, name)}
    own = type(base)
    metaclass = _Shared if own is type else type(f"Shared{own.__name__}", (_Shared, own), {})
    made: type = metaclass(f"Parametrized{base.__name__}", (base,), members)
    return made


def _get(module: nn.Module, name: str) -> Any:
    lists: Any = children(module).get("parametrizations")
    if lists is None or name not in children(lists):
        return _get_plain(module, name)
    if answered_from_cache() is None:
        return lists[name]()  # a tensor, or what a tracer takes for one
    # PyTorch's own key is the id of the module that was registered: a deep copy is answered with the original's weight,
    # a later module with that of one that is gone, and a compiler that has seen it compiles anew for each module.
    chain = lists[name]
    return once((chain, _get), tuple(_held(chain)), chain)


def _held(chain: nn.Module) -> Iterator[Tensor]:
    """What a chain stores, but not what its steps hold, which some of them change whenever they are asked."""
    return (tensor for store in (parameters(chain), buffers(chain)) for tensor in store.values() if tensor is not None)


def _forgetting(change: Any) -> Callable[..., Any]:
    """A method that changes what is stored; the tensors are computed anew after it."""

    def changed(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        try:
            return change(self, *arguments, **named)
        finally:
            forget()

    return changed


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
    forget()
    owner.right_inverse(value)


def _parameter_setter(base: type[nn.Module]) -> Callable[..., None]:
    """What `nn.Module` calls for an `nn.Parameter` that is assigned, before it looks for a property."""

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and name in chains(self):
            _set(self, name, param.detach())
        else:
            base.register_parameter(self, name, param)

    return register_parameter


def _refuse_to_pickle(self: nn.Module) -> None:
    raise RuntimeError(
        f"{type(self).__name__} cannot be pickled, as PyTorch refuses for every parametrized module. "
        "Save its state_dict(), or take the parametrizations off first."
    )


def refuse_to_script(self: nn.Module) -> None:
    """What PyTorch asks for before it compiles a module, or a parametrization in one, which says what to do."""
    raise RuntimeError(
        f"torch.jit.script needs plain modules. Got {type(self).__name__}, whose tensors are computed. "
        "Script a baked copy: torch.jit.script(bake(model))."
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
