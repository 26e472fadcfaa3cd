"""Laws about the stored tensor, and the weight computed from it."""

from __future__ import annotations

import torch
from torch import Tensor

from parametrizations.parametrization import Parametrization
from parametrizations.testing.requirements import most, require, require_equal
from parametrizations.testing.subject import Subject, dense, parametrization_of, set_stored, stored


def has_the_contract(subject: Subject) -> None:
    """The object has the methods of `Parametrization`, and its own ``needs``, the constraint as text for errors."""
    kind, base = type(subject.parametrization), Parametrization
    names = ("forward", "right_inverse", "contains", "linear", "extra_repr")
    missing = ["needs"] if getattr(kind, "needs", None) is base.needs else []
    missing += [name for name in names if not callable(getattr(subject.parametrization, name, None))]
    derive = "" if isinstance(subject.parametrization, base) else " Derive it from parametrizations.Parametrization."
    require(not missing, f"Missing: {', '.join(missing)}.{derive}")


def repr_is_complete(subject: Subject) -> None:
    """``extra_repr`` shows the weight's shape and how many numbers are stored."""
    layer = subject.layer()
    text = parametrization_of(layer).extra_repr()
    for number in (*subject.weight.shape, stored(layer).numel()):
        require(str(number) in text, f"The number {number} is not in {text!r}.")


def forward_gives_a_plain_tensor(subject: Subject) -> None:
    """The weight is a plain dense tensor on the stored tensor's device, the same at every call and in eval mode."""
    layer = subject.layer()
    x, weight = stored(layer), layer.weight
    require(type(weight) is Tensor, f"The weight is a {type(weight).__name__}, not a torch.Tensor.")
    require(weight.layout is torch.strided, f"The weight's layout is {weight.layout}.")
    require(weight.device == x.device, f"The weight is on {weight.device}, the stored tensor on {x.device}.")
    require_equal(layer.weight, weight, "The weight, asked for twice,")
    require_equal(layer.eval().weight, weight, "The weight in evaluation mode")


def right_inverse_is_fresh(subject: Subject) -> None:
    """The stored tensor is contiguous, is not part of a larger storage, and shares no memory with the weight."""
    weight = subject.weight.detach().clone()
    x = subject.fresh().right_inverse(weight)
    require(x.is_contiguous(), f"The stored tensor has strides {x.stride()}.")
    held, needed = x.untyped_storage().nbytes(), x.numel() * x.element_size()
    require(held == needed, f"The stored tensor holds {held} bytes for {needed} bytes of numbers.")
    shared = held > 0 and x.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    require(not shared, "The stored tensor shares memory with the weight that it was computed from.")


def every_stored_value_is_in_the_set(subject: Subject) -> None:
    """For every finite stored value, however extreme, the weight is in the set and the gradient is finite."""
    layer = subject.layer()
    contains, limits = parametrization_of(layer).contains, torch.finfo(subject.weight.dtype)
    sizes = [0.0, limits.tiny, limits.eps, 1e-3, 1.0, 11.5, 90.0, 710.0, limits.max**0.5, limits.max]
    values = torch.tensor([sign * size for size in sizes for sign in (1, -1)], dtype=torch.float64, device="cpu")
    values = values.clamp(limits.min, limits.max).to(subject.weight)
    for value in values:
        set_stored(layer, torch.full_like(stored(layer), value))
        require(contains(dense(layer)), f"Stored values of {value.item():.6g} give a weight outside the set.")
        (gradient,) = torch.autograd.grad(layer.weight.real.sum(), [stored(layer)])
        finite = bool(gradient.isfinite().all())
        require(finite, f"Stored values of {value.item():.6g} have a gradient that is not finite.")


def contains_tells_members(subject: Subject) -> None:
    """`contains` returns a bool, and False for a weight of NaN."""
    layer = subject.layer()
    contains, inside = parametrization_of(layer).contains, dense(layer)
    answer = contains(inside)
    require(isinstance(answer, bool), f"contains returns a {type(answer).__name__}, not a bool.")
    require(not contains(torch.full_like(inside, torch.nan)), "contains is True for a weight of NaN.")


def contains_takes_a_tolerance(subject: Subject) -> None:
    """``contains(weight, atol)`` is True for a weight outside the set if ``atol`` is large, False for ``atol=0``."""
    layer, outsider = subject.layer(), subject.outsider()
    contains = parametrization_of(layer).contains
    far = 4 * (most(outsider) + most(dense(layer)))  # more than the distance to the layer's weight, a member
    require(contains(outsider, atol=far), f"contains is False at atol={far:.3g} for a weight that is less far outside.")
    require(not contains(outsider, atol=0.0), "contains is True at atol=0 for a weight that is outside.")
