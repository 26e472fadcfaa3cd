"""The subjects of laws: layers, members, outsiders, inputs, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parametrizations import Diagonal, NegExpDiagonal, ZeroDiagonal
from parametrizations.testing.requirements import Skipped
from parametrizations.testing.subject import Subject, dense, gradient_of, outcome_of, parametrization_of, stored
from tests.cases import weight
from tests.testing.broken.stored_values import ContainsAll


def test_every_layer_has_a_parametrization_and_a_weight_of_its_own() -> None:
    given = weight((4, 3))
    subject = Subject(ZeroDiagonal(), given)
    one, other = subject.layer(), subject.layer()
    assert parametrization_of(one) is not parametrization_of(other)
    assert subject.parametrization is not parametrization_of(one)
    with torch.no_grad():
        subject.plain().weight.zero_()
    assert bool(given.all())
    assert subject.plain().bias.tolist() == [0, 0.125, 0.25, 0.375]
    assert torch.equal(subject.plain(2 * given).weight, 2 * given)


def test_members_are_the_one_that_registering_gives_and_others_of_every_scale() -> None:
    subject = Subject(ZeroDiagonal(), weight((4, 3)))
    registered, *others = subject.members()
    assert torch.equal(registered, dense(subject.layer()))
    assert not any(bool(member.diagonal().any()) for member in others)
    assert min(float(member.abs().max()) for member in others) < 0.1
    assert max(float(member.abs().max()) for member in others) > 10


@pytest.mark.parametrize("start", [torch.zeros(4, 3), -torch.eye(4, 3), torch.eye(4, 3), torch.ones(4, 3)])
@pytest.mark.parametrize("kind", [Diagonal, ZeroDiagonal, NegExpDiagonal])
def test_an_outsider_is_outside_wherever_it_starts(kind: type[Diagonal], start: torch.Tensor) -> None:
    subject = Subject(kind(), start)
    outsider = subject.outsider()
    assert not parametrization_of(subject.layer()).contains(outsider)
    assert outsider.data_ptr() != start.data_ptr()


def test_without_an_outsider_the_law_is_skipped() -> None:
    with pytest.raises(Skipped, match="no weight outside the set was found"):
        Subject(ContainsAll(), weight((2, 2))).outsider()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex64])
def test_inputs_fit_the_weight_and_are_the_same_at_every_call(dtype: torch.dtype) -> None:
    subject = Subject(ZeroDiagonal(), weight((4, 3), dtype))
    inputs = subject.inputs(2, 5)
    assert inputs.shape == (2, 5, 3)
    assert inputs.dtype is dtype
    assert torch.equal(inputs, subject.inputs(2, 5))
    assert stored(subject.precise_layer()).dtype is (torch.complex128 if dtype.is_complex else torch.float64)


def test_a_gradient_is_that_of_one_pass() -> None:
    subject = Subject(nn.Identity(), torch.ones(1, 1))
    layer = subject.layer()
    first = gradient_of(layer, torch.full((1, 1), 3.0))
    second = gradient_of(layer, torch.full((1, 1), 3.0))
    assert first.item() == second.item() == 18  # of (3 w)^2 at w = 1


def test_an_outcome_has_a_gradient_for_unused_tensors_too() -> None:
    output, used, unused = outcome_of(lambda one, other: one * 2, [torch.ones(2), torch.ones(3)])  # noqa: ARG005
    assert output.tolist() == [2, 2]
    assert used.tolist() == [8, 8]
    assert unused.tolist() == [0, 0, 0]
