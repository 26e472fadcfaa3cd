"""A short run of the campaign: ``python -m tests.campaign`` is the long one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from parametrizations import ZeroDiagonal
from tests.campaign.models import Block, Plan
from tests.campaign.sequence import OPERATIONS, Tally, run_batch
from tests.campaign.session import Session

PLAN = Plan(4, "float32", (Block("linear", 0, True),), 0)


@pytest.mark.parametrize("seed", range(4))
def test_random_use_agrees_with_dense_formulas(seed: int) -> None:
    run_batch(seed, 15, Tally(), sparing=True)


def test_every_operation_has_a_name_of_its_own() -> None:
    operations = set(OPERATIONS)
    assert len({operation.__name__ for operation in operations}) == len(operations)


def _wrong_weight(session: Session) -> None:
    session.model[0].weight.data[0, 1] += 1e-3


def _wrong_class(session: Session) -> None:
    nn.utils.parametrize.register_parametrization(session.model[0], "weight", ZeroDiagonal())


def _wrong_output(session: Session) -> None:
    session.model[0].forward = lambda x: 1.01 * nn.functional.linear(x, session.model[0].weight)


def _wrong_bystander(session: Session) -> None:
    other: Any = copy.deepcopy(session.model)
    session.leave_alone(other)
    other[0].bias.data.mul_(-1)


@pytest.mark.parametrize("break_it", [_wrong_weight, _wrong_class, _wrong_output, _wrong_bystander])
def test_what_is_wrong_is_found(break_it: Any) -> None:
    session = Session.of(PLAN)
    session.check()
    break_it(session)
    with pytest.raises(AssertionError, match=r"stores something else|has \['ZeroDiagonal'\]|another (output|model)"):
        session.check()


def test_a_change_in_a_block_that_may_change_nothing_is_found() -> None:
    session = Session.of(PLAN)
    with pytest.raises(AssertionError, match="something has changed"), session.unchanged():
        session.model.eval()
    with pytest.raises(AssertionError, match="random numbers were drawn"), session.unchanged():
        torch.rand(1)
