"""`check_parametrization`: every promise of the contract, run against any parametrization."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from parametrizations._options import kind_of
from parametrizations.testing.laws import LAWS, Law
from parametrizations.testing.requirements import Skipped
from parametrizations.testing.subject import Subject

__all__ = ["check_parametrization"]


def check_parametrization(parametrization: nn.Module, weight: Tensor) -> dict[str, str]:
    """Run every promise of the contract, and say in plain words which one is broken.

    What `torch.autograd.gradcheck` is to functions this is to parametrizations, your own included. It
    needs no test runner, changes neither argument (but draws from the generator of a mask rule that has
    one), and takes a few seconds. What `torch.compile` has compiled before is compiled again afterwards.

    Args:
        parametrization: An object that is not registered yet. It is copied for every law.
        weight: A matrix, ``(out, in)``, to register on, inside the set or not; finite, not empty. Its dtype is the
            one that is checked. Rectangular ones find more; small ones are faster. Laws take squares of its entries
            in its dtype, and add 1e-6 to what is stored: beyond 1e6, in half precision beyond 100, they cannot.

    Returns:
        What became of each law, by name: ``"held"``, or ``"skipped: "`` with the reason.

    Raises:
        TypeError: If ``parametrization`` is no module or ``weight`` no tensor.
        ValueError: If ``weight`` has no entries.
        AssertionError: If a promise is broken; the message has each of them, with figures.

    Example:
        >>> from parametrizations import ZeroDiagonal
        >>> outcome = check_parametrization(ZeroDiagonal(), torch.randn(3, 4))
        >>> outcome["gradients_are_right"]
        'held'
    """
    if not isinstance(parametrization, nn.Module) or not isinstance(weight, Tensor):
        raise TypeError(
            "check_parametrization needs a module and a tensor. "
            f"Got {kind_of(parametrization)} and {kind_of(weight)}. Pass (Diagonal(), weight)."
        )
    if not weight.numel():
        raise ValueError(f"check_parametrization needs entries. Got shape {tuple(weight.shape)}. Pass e.g. 4 x 3.")
    subject = Subject(parametrization, weight)
    with _undisturbed():
        _require_registrable(subject)
    outcome = {name: _run(law, subject) for name, law in LAWS.items()}
    broken = {name: text for name, text in outcome.items() if text.startswith("broken: ")}
    if broken:
        raise AssertionError(_report(type(parametrization).__name__, broken))
    return outcome


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Warnings go unheard, gradients are recorded, and what is drawn leaves the generators as they were."""
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.enable_grad():
        warnings.simplefilter("ignore")
        yield


def _require_registrable(subject: Subject) -> None:
    try:
        subject.layer()
    except Exception as error:
        name = type(subject.parametrization).__name__
        raise AssertionError(f"{name} does not register on this weight: {error}") from error


def _run(law: Law, subject: Subject) -> str:
    try:
        with _undisturbed():
            law(subject)
    except Skipped as reason:
        return f"skipped: {reason}"
    except AssertionError as error:
        return f"broken: {error}"
    except Exception as error:
        return f"broken: {type(error).__name__}: {error}"
    return "held"


def _report(name: str, broken: dict[str, str]) -> str:
    lines = [f"{name} breaks {len(broken)} of {len(LAWS)} promises."]
    for law, text in broken.items():
        lines.append(f"- {law}: {LAWS[law].__doc__}\n    {_shortened(text.removeprefix('broken: '))}")
    return "\n".join(lines)


def _shortened(text: str, most: int = 8) -> str:
    """The first lines: gradcheck prints two whole matrices, and would hide what the other laws say."""
    lines = text.splitlines()
    return "\n    ".join(lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more lines"])
