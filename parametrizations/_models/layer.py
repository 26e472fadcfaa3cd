"""The methods that all constrained layers of one plain class, such as `nn.Linear`, share.

A constrained layer loads plain checkpoints, and its ``reset_parameters`` initialises the stored tensor. A fused layer
also uses the product of its constraint.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from parametrizations._models.checkpoints import note_kinds, take_plain
from parametrizations._models.constrained import Slot, entries_of, stored_in
from parametrizations._models.initialize import initialize
from parametrizations._torch.chains import chains
from parametrizations._torch.loops import once
from parametrizations._torch.private import (
    answered_from_cache,
    children,
    is_autocast_anywhere,
    is_claimed,
    load_hooks,
    parameters,
    single_step,
)
from parametrizations._torch.shared_class import plain_class, shared_class, weight_of
from parametrizations.parametrization import Parametrization

BUILT = ("dense", "replaced-diagonal")
"""Products that copy the weight, or much of it, at each call. Inside `parametrize.cached`, a layer with such a product
computes the dense weight once, and all calls multiply with this weight."""


def constrained_class(module: nn.Module, names: Iterable[str], *, fused: bool) -> type[nn.Module]:
    """The class of a module with constrained tensors of these names. Modules with the same class and names share it.

    With ``fused``, an `nn.Linear` uses the product of the constraint on its ``weight``. A subclass of `nn.Linear`
    that overrides ``forward`` keeps its own method.
    """
    plain, names = plain_class(module), frozenset(names)
    is_linear = getattr(plain, "forward", None) is nn.Linear.forward and "weight" in names
    return shared_class(plain, names, _fused_members if fused and is_linear else _members)


def has_fused_forward(module: nn.Module) -> bool:
    """Whether the module is fused: it uses the product of its constraint."""
    return type(module).forward is _fused_forward


def fused_holders(slot: Slot) -> list[nn.Module]:
    """The fused modules that hold the tensor of a slot as their ``weight``."""
    return [module for module, name in slot.holders if name == "weight" and has_fused_forward(module)]


def _fused_members(base: type[nn.Module]) -> dict[str, object]:
    return _members(base) | {"forward": _fused_forward}


def _members(base: type[nn.Module]) -> dict[str, object]:
    # nn.MultiheadAttention calls its method _reset_parameters.
    resets = [name for name in ("reset_parameters", "_reset_parameters") if hasattr(base, name)]
    members: dict[str, object] = {name: _initializer(base, getattr(base, name)) for name in resets}
    return members | {
        "_save_to_state_dict": _saver(base._save_to_state_dict, _loads_by_torch(base._load_from_state_dict)),
        "_load_from_state_dict": _loader(base._load_from_state_dict),
    }


def _fused_forward(self: Any, input: Tensor) -> Tensor:
    # Reads the dictionaries directly: attribute lookup would be 10 % of the time of a small layer.
    own = parameters(self)
    bias = own["bias"] if "bias" in own else self.bias  # noqa: SIM401 (would evaluate the default)
    step, x = single_step(self, "weight")
    if x is not None and isinstance(step, Parametrization) and answered_from_cache() is None:
        return step.linear(input, x, bias)
    return _further_forward(self, input, bias)


_fused_forward.__qualname__ = "Linear.forward"  # errors of a wrong call show this name


def _further_forward(self: Any, input: Tensor, bias: Tensor | None) -> Tensor:
    """The forward pass with several parametrizations, with third-party ones, or inside `parametrize.cached`."""
    lists: Any = children(self).get("parametrizations")
    owner: Any = None if lists is None else children(lists).get("weight")
    first = None if owner is None or not owner.is_tensor else children(owner)["0"]
    if not isinstance(first, Parametrization):  # an attribute `linear` of another class may have another meaning
        return F.linear(input, self.weight, bias)
    if answered_from_cache() is None:
        entries, weight = _operand(owner), None
    else:
        entries, weight = once(owner, stored_in(owner), lambda: _built(owner, first), is_autocast_anywhere())
    if entries is not None:
        return first.linear(input, entries, bias)
    return F.linear(input, self.weight if weight is None else weight, bias)


def _operand(chain: nn.Module) -> Tensor | None:
    """The result of `entries_of` for a chain. None, too, if a hook or a replaced ``forward`` has to run."""
    return None if is_claimed(chain) else entries_of(chain)


def _built(owner: Any, first: Parametrization) -> tuple[Tensor | None, Tensor | None]:
    """The operand that all calls inside ``cached()`` share: (entries, None), or (None, dense weight).

    The operand is the dense weight if `_operand` returns None, or if the product is in `BUILT`.
    """
    x = _operand(owner)
    return (None, weight_of(owner)) if x is None or first.explain(x).product in BUILT else (x, None)


def _loader(load: Callable[..., None]) -> Callable[..., None]:
    def load_plain_too(self: nn.Module, *arguments: Any, **named: Any) -> None:
        hooks = load_hooks(self)
        hooks[take_plain] = functools.partial(take_plain, self)  # last, after hooks that rename or change the weight
        try:
            load(self, *arguments, **named)
        finally:
            del hooks[take_plain]

    return load_plain_too


def _loads_by_torch(load: Any) -> bool:
    """Whether a loader is, or calls, the loader of `nn.Module`.

    Other loaders may need every entry that their class saves, computed tensors included.
    """
    code = getattr(load, "__code__", None)
    return load is nn.Module._load_from_state_dict or (code is not None and "_load_from_state_dict" in code.co_names)


def _saver(save: Callable[..., None], drops: bool) -> Callable[..., None]:
    """A ``_save_to_state_dict`` that also saves the class names of the parametrizations, as metadata.

    With ``drops``, it removes the computed tensors from the state dict.
    """

    def save_with_kinds(self: nn.Module, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        save(self, destination, prefix, keep_vars)
        for name in chains(self) if drops else ():
            destination.pop(f"{prefix}{name}", None)
        note_kinds(self, destination, prefix)

    return save_with_kinds


def _initializer(base: type[nn.Module], reset: Callable[..., None]) -> Callable[..., None]:
    def reset_parameters(self: nn.Module, *arguments: Any, **named: Any) -> None:
        initialize(self, base, lambda module: reset(module, *arguments, **named))

    return reset_parameters
