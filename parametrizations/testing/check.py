"""`check_parametrization` tests a parametrization against every law of the contract.

A law is a public function of the modules in `LAWS`. It takes a `Subject`. If the promise is broken, the law raises
`Broken` with figures, or any error of the called code. If the law does not apply, it raises `Skipped`.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from parametrizations._checks import kind_of, require_kind
from parametrizations.parametrization import COMPLEX, FLOATING, Parametrization
from parametrizations.testing import products, registering, rest_of_pytorch, stored_values, training
from parametrizations.testing.requirements import Skipped
from parametrizations.testing.subject import Subject, parametrization_of

Law = Callable[[Subject], None]
LAWS: dict[str, Law] = {
    name: law
    for theme in (stored_values, registering, training, products, rest_of_pytorch)
    for name, law in vars(theme).items()
    if inspect.isfunction(law) and law.__module__ == theme.__name__ and not name.startswith("_")
}


def check_parametrization(parametrization: nn.Module, weight: Tensor) -> dict[str, str]:
    """Test every promise of the contract, and raise an error that lists the broken ones.

    This is `torch.autograd.gradcheck` for parametrizations, your own included. It takes a few seconds. Its arguments do
    not change, except a generator in a mask rule. Code that `torch.compile` compiled before is compiled again.

    Args:
        parametrization: An unregistered object. Each law gets a copy.
        weight: A matrix, ``(out, in)``, or a tensor of another shape that the constraint takes. The laws register on
            copies, in its dtype or in double precision. It may be outside the set, but must be finite and not empty.
            Small rectangular matrices find most errors. Entries must not exceed 1e6, or 100 in half precision: the laws
            square them.

    Returns:
        The outcome of each law, by name: ``"held"``, or ``"skipped: "`` with the reason.

    Raises:
        TypeError: If ``parametrization`` is not a module, or ``weight`` not a dense floating or complex tensor.
        ValueError: If ``weight`` has no values, or if ``parametrization`` is registered.
        AssertionError: If a promise is broken. The message lists every broken promise, with figures.

    Example:
        >>> from parametrizations import ZeroDiagonal
        >>> outcome = check_parametrization(ZeroDiagonal(), torch.randn(3, 4))
        >>> outcome["gradients_are_right"]
        'held'
    """
    _require_arguments(parametrization, weight)
    subject = Subject(parametrization, weight)
    _require_registrable(subject)
    outcome, broken = {}, []
    for name, law in LAWS.items():
        try:
            with _undisturbed():
                law(subject)
            outcome[name] = "held"
        except Skipped as reason:
            outcome[name] = f"skipped: {reason}"
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            broken.append(f"- {name}: {law.__doc__}\n    {_shortened(kind + str(error))}")
    if broken:
        title = f"{type(parametrization).__name__} breaks {len(broken)} of {len(LAWS)} promises."
        raise AssertionError("\n".join([title, *broken]))
    return outcome


def _require_arguments(parametrization: object, weight: object) -> None:
    if not isinstance(parametrization, nn.Module):
        got = kind_of(parametrization)
        raise TypeError(f"check_parametrization needs a parametrization. Got {got}. Pass Diagonal(), then the weight.")
    require_kind("check_parametrization", weight, FLOATING + COMPLEX)
    assert isinstance(weight, Tensor)
    if not weight.numel() or weight.is_meta:
        raise ValueError(
            f"check_parametrization needs a weight with values. Got shape {tuple(weight.shape)} on "
            f"{weight.device}. Pass e.g. torch.randn(4, 3)."
        )
    if isinstance(parametrization, Parametrization):
        parametrization._require_complete()
        if parametrization.shape is not None:
            raise ValueError(
                f"check_parametrization needs an unregistered object. Got a {type(parametrization).__name__} for a "
                f"weight of shape {tuple(parametrization.shape)}. Create a new one."
            )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore warnings, record gradients, and at the end restore the state of PyTorch's default random generators."""
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.enable_grad():
        warnings.simplefilter("ignore")
        yield


def _require_registrable(subject: Subject) -> None:
    try:
        with _undisturbed():
            stored_values.has_the_contract(subject)
            parametrization_of(subject.layer()).contains(subject.weight)
    except Exception as error:
        name = type(subject.parametrization).__name__
        raise AssertionError(f"{name} cannot be checked on this weight: {error}") from error


def _shortened(text: str, most: int = 8) -> str:
    """The first lines of an error: a compiler prints many lines, which would hide the other broken promises."""
    lines = text.splitlines()
    return "\n    ".join(lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more lines"])
