"""A short run of the campaign; ``python -m tools.campaign`` starts a long one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parametrizations import Diagonal, MaskedSparse, ZeroDiagonal
from tools.campaign import attaching, checkpoints, training
from tools.campaign.models import Block, Plan
from tools.campaign.sequence import OPERATIONS, Tally, run_batch, run_sequence
from tools.campaign.session import Session

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
def test_errors_are_found(break_it: Any) -> None:
    session = Session.of(PLAN)
    session.check()
    break_it(session)
    with pytest.raises(AssertionError, match=r"stores something else|has \['ZeroDiagonal'\]|another (output|model)"):
        session.check()


def test_a_change_in_a_block_that_must_not_change_is_found() -> None:
    session = Session.of(PLAN)
    with pytest.raises(AssertionError, match="something has changed"), session.unchanged():
        session.model.eval()
    with pytest.raises(AssertionError, match="random numbers were drawn"), session.unchanged():
        torch.rand(1)


SATURATED = Plan(
    22,
    "float32",
    (Block("own", 1, False), Block("pair", 1, False), Block("pair", 4, False), Block("attention", 1, True)),
    0,
)


def _train_saturated() -> None:
    """Train an attention with scores of 744. Its backward pass cancels: dense float32 is 0.0001 to 0.02 off."""
    drawn = [(OPERATIONS[0], 0)] * 3 + [(checkpoints.load_plain, 111), (attaching.register_some, 6605849)]
    run_sequence(SATURATED, drawn, Tally())


def test_the_error_of_dense_formulas_is_measured_if_one_run_is_too_accurate() -> None:
    _train_saturated()


def test_in_double_precision_neighbours_reveal_cancellation() -> None:
    blocks = (*SATURATED.blocks[:2], Block("pair", 5, False), Block("recurrent", 1, True))
    drawn = [(OPERATIONS[0], 0)] * 3 + [(checkpoints.load_plain, 111), (attaching.register_some, 6605849)]
    run_sequence(Plan(22, "float64", blocks, 0), drawn, Tally())


def test_single_precision_does_not_predict_errors_in_double_precision() -> None:
    """A unit in the last place of the stored tensor moves a gradient of 54 by 2e-12. Float32 suggested 1e-14."""
    blocks = (Block("linear", 1, False), Block("linear", 1, False), Block("attention", 1, False))
    drawn = [
        *[(OPERATIONS[0], 0)] * 2,
        (attaching.register_some, 68980),
        (checkpoints.load_plain, 1),
        (training.train, 0),
    ]
    run_sequence(Plan(10, "float64", blocks, 0), drawn, Tally())


def _answer_saturated() -> None:
    """Apply `tanh` to sums of 1,400: a dense output in double precision is 4e-17 to 7e-14 off."""
    blocks = (Block("linear", 1, True), Block("branches", 1, False), Block("linear", 1, True))
    used = [OPERATIONS[0], OPERATIONS[0], checkpoints.load_plain, training.train, attaching.attach_with_torch]
    plan = Plan(46, "float64", (*blocks, Block("recurrent", 1, False)), 0)
    run_sequence(plan, list(zip(used, [0, 0, 0, 0, 417], strict=True)), Tally())


def test_the_error_of_an_output_is_measured_too() -> None:
    _answer_saturated()


def test_a_wrong_output_is_found_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Diagonal.linear
    monkeypatch.setattr(Diagonal, "linear", lambda *given: (1 + 1e-11) * right(*given))
    with pytest.raises(AssertionError, match="another output"):
        _answer_saturated()


@pytest.mark.parametrize("factor", [1.05, 0.95])
def test_a_wrong_gradient_is_found_there_too(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right = MaskedSparse.linear

    def wrong(self: MaskedSparse, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        values = x * 1
        if values.requires_grad:
            values.register_hook(lambda gradient: factor * gradient)  # type: ignore[no-untyped-call]
        return right(self, input, values, bias)

    monkeypatch.setattr(MaskedSparse, "linear", wrong)
    with pytest.raises(AssertionError, match="weight has another gradient"):
        _train_saturated()
