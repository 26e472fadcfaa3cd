"""Checks of weights, names and options, and their error messages."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from parametrizations._torch.caller import is_assignment

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

HINTS = {
    "rules": 'The rules are a mapping, such as {"encoder.*.weight": ...}.',
    "optimizer": "With optimizer=None no optimizer state moves: create a new optimizer afterwards.",
    "on_infeasible": "Pass no shape: it is that of the weight.",
    "mask": "For a density, pass a rule: MaskedSparse(masks.magnitude(density=0.1)). Pass blocks and axes to the rule.",
    "signs": "The signs are 1, -1, a tensor of them, or a rule, such as signs.dale().",
    "density": "density is the share to keep: amount=0.9 of torch.nn.utils.prune is density=0.1.",
    "generator": "For a seed, pass generator=torch.Generator().manual_seed(0).",
}
"""For each option, a sentence for the errors of wrong calls to functions with this option."""


def by_signature(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorator. A call with missing, unknown or too many arguments gets an error that shows the right call."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            signature.bind(*arguments, **named)
        except TypeError:
            name, given, options = function.__name__, list[object](arguments), dict(signature.parameters)
            if name == "__init__":
                name = type(given.pop(0)).__name__
                del options["self"]
            shown = ", ".join([*map(_short, given), *(f"{key}={_short(value)}" for key, value in named.items())])
            hints = "".join(f" {hint}" for option, hint in HINTS.items() if option in options)
            raise TypeError(
                f"{name} needs other arguments. Got {name}({shown}). "
                f"Write {name}({', '.join(map(_placeholder, options.values()))}).{hints}"
            ) from None
        return function(*arguments, **named)

    return checked


def _short(value: object) -> str:
    return repr(value) if isinstance(value, int | float | str) else type(value).__name__


def _placeholder(option: inspect.Parameter) -> str:
    if option.default is not option.empty:
        return f"{option.name}={getattr(option.default, '__name__', repr(option.default))}"
    return f"{option.name}=..." if option.kind is option.KEYWORD_ONLY else option.name


def require_kind(name: str, weight: object, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse anything but a dense tensor of one of the dtypes. Errors start with ``name``, such as ``"Diagonal"``."""
    if not isinstance(weight, Tensor) or weight.layout is not torch.strided:
        kind = weight.layout if isinstance(weight, Tensor) else type(weight).__name__
        advice = "weight.to_dense()" if isinstance(weight, Tensor) else "torch.as_tensor(weight)"
        raise TypeError(f"{name} needs a dense tensor. Got {kind}. Pass {advice}.")
    if weight.dtype not in dtypes:
        listed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(
            f"{name} needs a weight of dtype {listed}. Got {weight.dtype}. Convert this weight or its layer first."
        )


def require_finite(name: str, weight: Tensor) -> None:
    """Raise a `ValueError` if the weight has NaN or infinite entries."""
    if not is_finite(weight):
        bad = int((~torch.isfinite(weight)).sum())
        raise ValueError(
            f"{name} needs a finite weight. Got NaN or infinity in {bad} of {weight.numel()} "
            "entries. Initialise or repair the weight first."
        )


def require_choice(name: str, option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a ``value`` outside the choices for the ``option`` of the class ``name``."""
    if value not in choices:
        allowed = " or ".join(map(repr, choices))
        raise ValueError(f"{name} needs {option} to be {allowed}. Got {value!r}.")


def outside(name: str, needs: str, weight: Tensor, excess: Tensor) -> str:
    """The error message for a weight outside the set: the rule, how many entries break it, and the one farthest off."""
    worst = tuple(int(index) for index in torch.unravel_index(excess.argmax(), weight.shape))
    place = f"row {worst[0]}, column {worst[1]}" if weight.dim() == 2 else f"index {worst}"
    return (
        f"{name} needs {needs}. Got a weight of shape {tuple(weight.shape)} where "
        f"{int((excess > 0).sum())} of {weight.numel()} entries break this, the worst "
        f"{weight[worst].item():.6g} at {place}. {asked()} a weight that keeps the rule, such "
        "as what project(weight) of this parametrization returns, or create it with on_infeasible='project'."
    )


def asked() -> str:
    """The verb for the advice in an error: "Assign" during an assignment, otherwise "Load or pass"."""
    return "Assign" if is_assignment() else "Load or pass"


def is_finite(weight: Tensor) -> bool:
    """Whether every entry is finite; always True on the meta device."""
    # If the sum is finite, so is every entry; a sum needs no memory. If not, it may have overflowed: check the entries.
    return weight.is_meta or bool(weight.sum().isfinite()) or bool(torch.isfinite(weight).all())


def require_free(owner: object, name: str, value: object) -> None:
    """Refuse to replace a read-only property; a method by a non-callable value; or any method or property by a module.

    Python and PyTorch would allow it, and a later use of the name would fail. A function may replace a method, as
    wrappers replace ``forward``.

    Args:
        owner: The object that gets the attribute.
        name: The name of the attribute.
        value: The assigned value.

    Raises:
        AttributeError: If the assignment is refused. The message says what to do.
    """
    member = inspect.getattr_static(type(owner), name, None)
    method, known = inspect.isfunction(member), isinstance(member, property)
    fixed = known and getattr(member, "fset", None) is None
    if fixed or (method and not callable(value)) or ((method or known) and isinstance(value, nn.Module)):
        kind = "method" if method else "property"
        raise AttributeError(
            f"{type(owner).__name__} needs the name {name!r} for a {kind}. Got "
            f"a {type(value).__name__} assigned to it. Give the attribute another name, such as {f'own_{name}'!r}; "
            "pass options when you create the object."
        )


def options_of(made: object) -> dict[str, object]:
    """A dict of the arguments of ``__init__`` that an object keeps as attributes under the same names."""
    found = {name: getattr(made, name) for name in _option_names(type(made)) if hasattr(made, name)}
    return {name: value for name, value in found.items() if not inspect.ismethod(value)}


def kind_of(value: object) -> str:
    """The type of a value, as text for an error message. For a class, the text shows how to make an instance."""
    if not isinstance(value, type):
        return type(value).__name__
    _, *parameters = inspect.signature(value.__init__).parameters.values()  # type: ignore[misc]
    needed = any(p.default is p.empty and p.kind < p.VAR_POSITIONAL for p in parameters)
    return f"the class {value.__name__}: write {value.__name__}({'...' if needed else ''})"


def _option_names(kind: type) -> Iterator[str]:
    """The argument names of a class's ``__init__``; if it takes ``*args`` or ``**kwargs``, also those of its bases."""
    for base in kind.__mro__:
        if "__init__" in vars(base):
            _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            passed_on = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            yield from (p.name for p in parameters if p not in passed_on)
            if not passed_on:
                return
