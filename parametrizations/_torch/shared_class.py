"""One class for all modules with the same layer class and parametrized names, not one for each module as in PyTorch.

`register_parametrization` gives every module a new class. There are three costs: a compiled block is traced again for
every layer, `torch.func.stack_module_state` refuses the models, and removing a parametrization from a deep copy deletes
the property of the original, because the two share the class. `register` and `fuse` therefore use the class of this
file, which all modules with the same layer class and the same parametrized names share. Its only base is the layer's
class, since PyTorch restores ``__bases__[0]`` when the last parametrization is removed.

PyTorch treats the class as if it belonged to one module. It deletes the property of a removed parametrization; the
metaclass ignores this, since other modules need the property. It sets a new property for each further parametrized
tensor; the metaclass replaces it by a property for every module of the class.

Inside `parametrize.cached()` a tensor is computed once. It is computed again after the module is assigned to, loaded,
initialised or moved, and after a stored tensor changes, as in a step of an unfused optimizer. Other changes
inside a parametrization, such as a mask loaded into the parametrization alone, are not noticed, as in plain PyTorch.

All code that depends on the classes of `register_parametrization` is in this file. Its tests fail if a release of
PyTorch changes them.
"""

from __future__ import annotations

import copy
import weakref
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from parametrizations._torch.chains import TIES, chains, retie, spare_graphs
from parametrizations._torch.loops import forget, once
from parametrizations._torch.parameters import is_sharded
from parametrizations._torch.private import answered_from_cache, buffers, children, is_swapped, parameters

Extend = Callable[[type[nn.Module]], Mapping[str, object]]
"""A function that returns, for a layer's class, the methods to add to the shared class, by name."""

_CHANGES = ("_apply", "_load_from_state_dict", "reset_parameters", "_reset_parameters")
"""Methods that change the stored tensors of a module."""

_CLASSES: weakref.WeakValueDictionary[tuple[type, frozenset[str], Extend], type] = weakref.WeakValueDictionary()


def can_share(module: nn.Module) -> bool:
    """Whether `plain_class` is right: the module has no parametrizations, or a class from PyTorch or this file."""
    own, names = vars(type(module)), chains(module)
    return not names or (
        len(type(module).__bases__) == 1 and all(isinstance(own.get(name), property) for name in names)
    )


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has without its parametrizations."""
    plain: type[nn.Module] = type(module).__bases__[0] if chains(module) else type(module)
    return plain


def shared_class(plain: type[nn.Module], names: Iterable[str], extend: Extend) -> type[nn.Module]:
    """The class of all modules with this plain class, these constrained tensors, and the members from ``extend``."""
    key = (plain, frozenset(names), extend)
    found: type[nn.Module] | None = _CLASSES.get(key)
    if found is None:
        found = _CLASSES[key] = _make(*key)
    return found


class _Shared(ABCMeta):
    """The metaclass: changes that PyTorch makes for one module do not affect the others.

    It derives from `ABCMeta`, so that a subclass can also have an abstract base class, as in meta-learning libraries.
    """

    @override
    def __delattr__(cls, name: str) -> None:
        if not isinstance(vars(cls).get(name), property):
            super().__delattr__(name)

    @override
    def __setattr__(cls, name: str, value: object) -> None:
        super().__setattr__(name, _tensor_property(name) if isinstance(value, property) else value)


def _tensor_property(name: str) -> property:
    """A property: the computed tensor if the module has parametrized this name, otherwise the plain tensor."""
    return property(lambda module: _get(module, name), lambda module, value: _set(module, name, value))


def _make(base: Any, names: frozenset[str], extend: Extend) -> type:
    members: dict[str, object] = {name: _tensor_property(name) for name in names}
    members["__getstate__"] = _refuse_to_pickle
    members["__prepare_scriptable__"] = refuse_to_script  # torch.jit.script calls it first
    members["__module__"] = base.__module__  # so that a leaf of torch.fx stays a leaf
    if not hasattr(base, "__deepcopy__"):
        members["__deepcopy__"] = _deepcopy
    members["register_parameter"] = _parameter_setter(base)
    members |= extend(base)
    members |= {name: _forgetting(members.get(name) or getattr(base, name)) for name in _CHANGES if hasattr(base, name)}
    own = type(base)
    metaclass = _Shared if own in (type, ABCMeta) else type(f"Shared{own.__name__}", (_Shared, own), {})
    made: type = metaclass(f"Parametrized{base.__name__}", (base,), members)
    return made


def _get(module: nn.Module, name: str) -> Any:
    lists: Any = children(module).get("parametrizations")
    if lists is None or name not in children(lists):
        return _get_plain(module, name)
    return weight_of(lists[name])


def weight_of(chain: Any) -> Any:
    """The tensor that a `ParametrizationList` computes, memoised inside `cached()`; or the proxy of a tracer."""
    if answered_from_cache() is None:
        return _computed(chain)
    # PyTorch's own key has the id of the registered module, even in a deep copy, which shares the class. With PyTorch's
    # key the copy would get the weight of the original, a new module could get the weight of a deleted one, and a
    # compiler would compile again for each id.
    return once((getattr(chain, TIES, (chain,))[0], _get), tuple(_stored(chain)), lambda: _computed(chain))


def _computed(chain: Any) -> Any:
    try:
        return chain()
    except TypeError as error:
        if not chain.unsafe:
            raise
        kinds = ", then ".join(type(step).__name__ for step in chain)
        raise RuntimeError(
            f"A weight needs parametrizations that can follow one another. Got {kinds}, attached with unsafe=True "
            f"({error}). weight_norm and orthogonal need to come first: delete the last one, "
            "del layer.parametrizations.weight[-1]; then bake the layer, attach weight_norm or orthogonal, and "
            "register the constraints again."
        ) from error


def _get_plain(module: nn.Module, name: str) -> Any:
    for store in (parameters(module), buffers(module), module.__dict__):
        if name in store:
            return store[name]
    raise AttributeError(f"{type(module).__name__!r} object has no attribute {name!r}")


def _stored(chain: nn.Module) -> Iterator[Tensor]:
    """The stored tensors; parameters and buffers of the parametrizations are left out: each call may change them."""
    return (tensor for store in (parameters(chain), buffers(chain)) for tensor in store.values() if tensor is not None)


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    chain = chains(module).get(name)
    if chain is None:
        module.__dict__[name] = value  # not a parameter, buffer or module: nn.Module itself stores those
        return
    if any(is_sharded(tensor) for tensor in chain.parameters(recurse=False)):
        raise RuntimeError(
            f"Assigning {name!r} needs an unsharded stored tensor. Got one sharded over processes. "
            "Assign before fully_shard, or load a gathered checkpoint."
        )
    if is_swapped():
        raise RuntimeError(
            f"functional_call needs the name of a stored tensor. Got {name!r}, which is computed. Pass a value for "
            f"'parametrizations.{name}.original' to constrain it, or call a baked copy to use it as it is."
        )
    forget()
    chain.right_inverse(value)


def _parameter_setter(base: type[nn.Module]) -> Callable[..., None]:
    """A ``register_parameter`` for constrained tensors: `nn.Module` calls it, not a property, for an `nn.Parameter`."""

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if name.endswith("_orig") and name.removesuffix("_orig") in chains(self):
            raise TypeError(
                f"torch.nn.utils.prune needs a parameter. Got {name.removesuffix('_orig')!r}, which is computed. "
                "To prune the layer, bake it first, or give it a mask: MaskedSparse(masks.magnitude(density=...))."
            )
        if param is not None and name in chains(self):
            _set(self, name, param.detach())
        else:
            base.register_parameter(self, name, param)

    return register_parameter


def _forgetting(change: Any) -> Callable[..., Any]:
    """Wrap ``change``, a method that changes stored tensors: afterwards, clear all results memoised in ``cached()``."""

    def changed(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        try:
            return change(self, *arguments, **named)
        finally:
            forget()
            for chain in chains(self).values():
                retie(chain)

    return changed


def _refuse_to_pickle(self: nn.Module) -> None:
    raise RuntimeError(
        f"{type(self).__name__} cannot be pickled: PyTorch refuses to pickle parametrized modules. "
        "Save its state_dict(), or pickle a plain copy: torch.save(bake(model), file)."
    )


def refuse_to_script(self: nn.Module) -> None:
    """Refuse `torch.jit.script` of a parametrized module, or of a parametrization, and say what to do instead."""
    raise RuntimeError(
        f"torch.jit.script needs plain modules, without parametrizations. Got {type(self).__name__}. "
        "Script a baked copy: torch.jit.script(bake(model))."
    )


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy as `copy.deepcopy` copies a plain module, but also copy non-leaf tensors, detached from their graphs."""
    twin = type(self).__new__(type(self))
    memo[id(self)] = twin
    plain: Any = plain_class(self)
    state = plain.__getstate__(self)  # leaves out the result of compile(); the class may leave out more
    spare_graphs(memo, state.values() if isinstance(state, dict) else [])
    plain.__setstate__(twin, copy.deepcopy(state, memo))
    return twin
