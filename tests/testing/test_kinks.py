"""Maps with kinks: `check_parametrization` compares their gradients away from declared kinks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from parametrizations import Parametrization
from parametrizations.testing import check_parametrization
from parametrizations.testing.requirements import Broken
from parametrizations.testing.subject import Subject
from parametrizations.testing.training import gradients_are_right
from tests.layers import NonNegative


class ByRelu(NonNegative):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class Squared(NonNegative):
    kinks = ()

    @override
    def forward(self, x: Tensor) -> Tensor:
        largest = torch.finfo(x.dtype).max ** 0.5
        return x.clamp(-largest, largest).square()

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return weight.sqrt()

    @override
    def rounding(self, weight: Tensor) -> Tensor:
        return 4 * torch.finfo(weight.dtype).eps * weight


class Clamped(Parametrization):
    needs = "every entry to be from -1 to 1"
    kinks: tuple[float, ...] = (-1.0, 1.0)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return (weight.abs() - 1).clamp(min=0)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight.clamp(-1, 1)


class Undeclared(NonNegative):
    kinks = ()


class UndeclaredClamped(Clamped):
    kinks = (-1.0,)


class WrongBesideTheKink(NonNegative):
    """The value of `abs` with the derivative of ``1.1 * abs``."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        wrong = 1.1 * x.abs()
        return wrong + (x.abs() - wrong).detach()


START = torch.linspace(-2, 2, 12).view(4, 3)
WEIGHTS = {"both signs": START, "positive": START.abs() + 0.1, "negative": -START.abs() - 0.1, "large": 30 * START}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("kind", [NonNegative, ByRelu, Squared, Clamped])
def test_the_gradients_of_a_map_with_declared_kinks_are_right(kind: type[Parametrization], weight: Tensor) -> None:
    gradients_are_right(Subject(kind(), weight))


@pytest.mark.parametrize("kind", [NonNegative, Squared, Clamped])
def test_a_map_with_declared_kinks_keeps_every_promise(kind: type[Parametrization]) -> None:
    check_parametrization(kind(), START)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("kind", [Undeclared, UndeclaredClamped, WrongBesideTheKink])
def test_a_wrong_gradient_is_reported_for_every_weight(kind: type[Parametrization], weight: Tensor) -> None:
    with pytest.raises(Broken) as error:
        gradients_are_right(Subject(kind(), weight))
    assert len(str(error.value).split(". ")) == 2  # two sentences, without a Jacobian
    assert "declare them: kinks = (0.0,)." in str(error.value)
    assert "\n" not in str(error.value)
