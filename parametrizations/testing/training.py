"""Laws about gradients and training."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from parametrizations.testing.requirements import Broken, require, require_close, require_equal
from parametrizations.testing.subject import Subject, dense, loss, outcome_of, parametrization_of, set_stored, stored

OPTIMIZERS: tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], ...] = (
    lambda p: torch.optim.SGD(p, lr=10.0, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.RMSprop(p, lr=10.0, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adagrad(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.LBFGS(p, lr=10.0, max_iter=3),
)


def gradients_are_right(subject: Subject) -> None:
    """Gradcheck and gradgradcheck of ``forward`` pass; gradcheck also in forward mode and batched."""
    for layer in subject.precise_layers():
        x = subject.away_from_kinks(stored(layer)).requires_grad_()
        _require_right_gradients(parametrization_of(layer), [x], fast=subject.weight.numel() > 100)


def linear_is_differentiable_to_any_order(subject: Subject) -> None:
    """Gradcheck and gradgradcheck of ``linear`` pass for every argument; gradcheck also in forward mode and batched."""
    subject.skip_unless_matrix()
    layer = subject.precise_layer()
    arguments = (subject.inputs(2).to(layer.bias), subject.away_from_kinks(stored(layer)), layer.bias)
    leaves = [argument.detach().clone().requires_grad_() for argument in arguments]
    linear = parametrization_of(layer).linear
    _require_right_gradients(linear, leaves, fast=subject.weight.numel() > 16)
    gradients = partial(torch.autograd.grad, inputs=leaves, materialize_grads=True)
    plain, recorded = gradients(loss(linear(*leaves))), gradients(loss(linear(*leaves)), create_graph=True)
    for one, other in zip(recorded, plain, strict=True):  # gradgradcheck ignores missing gradients
        require_close(one, other, "A gradient that can be differentiated again")


def linear_works_for_only_some_gradients(subject: Subject) -> None:
    """Freezing some arguments changes no gradient of the others."""
    subject.skip_unless_matrix()
    parametrization = parametrization_of(layer := subject.layer())
    leaves = [subject.inputs(3), stored(layer).detach(), layer.bias.detach()]
    every = outcome_of(parametrization.linear, leaves)[1:]
    for frozen in itertools.product([True, False], repeat=3):
        taken = [leaf.clone().requires_grad_(not stays) for leaf, stays in zip(leaves, frozen, strict=True)]
        if not all(frozen):
            loss(parametrization.linear(*taken)).backward()  # type: ignore[no-untyped-call]
        for leaf, gradient, stays in zip(taken, every, frozen, strict=True):
            require((leaf.grad is None) == stays, "A gradient is missing, or a frozen argument has one.")
            if leaf.grad is not None:
                require_close(leaf.grad, gradient, f"With {frozen} of (input, x, bias) frozen, a gradient")


def optimizers_stay_in_the_set(subject: Subject) -> None:
    """Steps of common optimizers, with weight decay, momentum and an absurdly large rate, stay in the set."""
    for optimizer_of in OPTIMIZERS:
        layer = subject.layer()
        optimizer = optimizer_of(list(layer.parameters()))
        for _ in range(3):
            optimizer.step(partial(_closure, layer, subject.inputs(3)))
            if not bool(stored(layer).isfinite().all()):
                break
            inside = parametrization_of(layer).contains(dense(layer))
            require(inside, f"A step of {type(optimizer).__name__} moved the weight out of the set.")


def copies_are_independent(subject: Subject) -> None:
    """A deep copy has the same weight, and training it leaves the original alone."""
    layer = subject.layer()
    weight, twin = dense(layer), copy.deepcopy(layer)
    require_equal(dense(twin), weight, "The copy's weight")
    set_stored(twin, stored(twin) * 2 + 1)
    dense(twin)  # a parametrization may keep statistics of its weights
    require_equal(dense(layer), weight, "The original's weight, after a change to the copy,")


def _closure(layer: Any, inputs: Tensor) -> float:
    layer.zero_grad()
    value = loss(layer(inputs))
    value.backward()  # type: ignore[no-untyped-call]
    return float(value)


def _require_right_gradients(function: Callable[..., Tensor], leaves: Sequence[Tensor], *, fast: bool) -> None:
    """Compare first and second derivatives with finite differences. The error leaves out their Jacobians."""
    try:
        torch.autograd.gradcheck(function, leaves, fast_mode=fast, check_forward_ad=True, check_batched_grad=True)
        torch.autograd.gradgradcheck(function, leaves, fast_mode=fast)
    except GradcheckError as error:
        fault = str(error).strip().splitlines()[0].rstrip(",:. ")
        raise Broken(
            f"A derivative differs from finite differences ({fault}). If the map has kinks, as abs has at 0, declare "
            "them: kinks = (0.0,)."
        ) from error
