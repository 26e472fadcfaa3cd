from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, masks
from parametrizations.testing import check_parametrization
from parametrizations.testing.laws import LAWS
from tests.cases import checkerboard, weight
from tests.testing import broken


def test_every_law_has_something_that_breaks_it() -> None:
    assert set(broken.BROKEN) == set(LAWS)


@pytest.mark.parametrize("law", LAWS)
def test_law_catches_what_breaks_it(law: str) -> None:
    message = broken.BROKEN[law][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match=message):
            LAWS[law](broken.subject(law))


@pytest.mark.parametrize(
    "parametrization",
    [Diagonal(), ZeroDiagonal(), NegExpDiagonal(), MaskedSparse(checkerboard((6, 5)))],
    ids=lambda p: type(p).__name__,
)
def test_the_four_hold_every_promise(parametrization: nn.Module) -> None:
    outcome = check_parametrization(parametrization, weight((6, 5)))
    assert outcome == dict.fromkeys(LAWS, "held")


def test_a_law_that_does_not_apply_says_why() -> None:
    outcome = check_parametrization(MaskedSparse(masks.magnitude(0.5)), weight((4, 4)))
    assert outcome["meta_registration"].startswith("skipped: it cannot be registered on meta: magnitude")


def test_the_report_names_each_broken_promise_with_figures() -> None:
    with pytest.raises(AssertionError) as raised:
        check_parametrization(broken.InvertsBadly(), weight((6, 5)))
    report = str(raised.value)
    assert report.startswith(f"InvertsBadly breaks 2 of {len(LAWS)} promises.")
    assert "- assigning_keeps_a_member: Assigning a weight in the set gives that weight" in report
    assert "A member that is assigned moved in 25 of 30 entries, by at most 0.0" in report


def test_what_is_checked_stays_as_it_was() -> None:
    parametrization, given = ZeroDiagonal(), weight((4, 4))
    kept, state = given.clone(), torch.get_rng_state()
    check_parametrization(parametrization, given)
    assert parametrization.shape is None
    assert torch.equal(given, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_weight_that_cannot_be_registered_on_is_said_once() -> None:
    with pytest.raises(AssertionError, match=r"NegExpDiagonal does not register on this weight: .*complex64"):
        check_parametrization(NegExpDiagonal(), weight((3, 3), torch.complex64))


def test_swapped_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a module and a tensor. Got Tensor and Diagonal"):
        check_parametrization(torch.ones(2, 2), Diagonal())  # type: ignore[arg-type]
