"""A short run of the campaign; ``python -m tools.campaign`` starts a long one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parametrizations import Diagonal, MaskedSparse, ZeroDiagonal, register
from tools.campaign import attaching, batches, checkpoints, refusals, sequence, training
from tools.campaign.constraints import Constraint, Signs, make
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


def _wrong_sign(session: Session) -> None:
    signed = session.model[0].parametrizations.weight[-1]
    signed.set_extra_state(-signed.get_extra_state())


SIGNED: list[Any] = [
    [],
    [Constraint("MaskedSparse", "MaskedSparse(masks.lower_triangular())", False, lambda *_: True)],
    [Constraint("ZeroDiagonal", "ZeroDiagonal(blocks=2)", False, blocks=2)],
]


@pytest.mark.parametrize("first", SIGNED, ids=["alone", "masked", "blocks"])
@pytest.mark.parametrize("map", ["exp", "softplus"])
def test_wrong_signs_are_found(map: str, first: list[Constraint]) -> None:
    text, sign = f"Signed(torch.tensor([1, -1, 0, 1]), map={map!r})", torch.tensor([1, -1, 0, 1])
    plan = [*first, Constraint("Signed", text, False, signs=Signs(lambda _: sign, map, ""))]
    session = Session.of(PLAN)
    register(session.model, {"0.weight": [make(one) for one in plan]})
    attaching.follow(session, "0.weight", plan)
    session.check()
    _wrong_sign(session)
    with pytest.raises(AssertionError, match="is another weight"):
        session.check()


def test_a_call_that_does_not_raise_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "OPERATIONS", [refusals.refuse])
    monkeypatch.setattr(refusals, "BAD", {"nothing wrong": lambda *_: None})
    _, finding = batches._one_batch(1, 0)
    assert finding is not None
    assert "DID NOT RAISE" in finding
    assert "nothing wrong, with name = " in finding


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
    """Train a saturated attention. Its backward pass cancels: some dense results are much more accurate than others."""
    drawn = [(OPERATIONS[0], 0)] * 3 + [(checkpoints.load_plain, 18), (attaching.register_some, 20573)]
    run_sequence(SATURATED, drawn, Tally())


def test_the_error_of_dense_formulas_is_measured_if_one_run_is_too_accurate() -> None:
    _train_saturated()


def test_in_double_precision_neighbours_reveal_cancellation() -> None:
    blocks = (*SATURATED.blocks[:2], Block("pair", 5, False), Block("recurrent", 1, True))
    drawn = [(OPERATIONS[0], 0)] * 3 + [(checkpoints.load_plain, 553), (attaching.register_some, 81722)]
    run_sequence(Plan(22, "float64", blocks, 0), drawn, Tally())


def test_single_precision_does_not_predict_errors_in_double_precision() -> None:
    """A unit in the last place of the stored tensor moves a gradient by more than float32 suggests."""
    blocks = (Block("linear", 1, False), Block("linear", 1, False), Block("attention", 1, False))
    drawn = [
        *[(OPERATIONS[0], 0)] * 2,
        (attaching.register_some, 8271),
        (checkpoints.load_plain, 867),
        (training.train, 0),
    ]
    run_sequence(Plan(10, "float64", blocks, 0), drawn, Tally())


def _answer_saturated() -> None:
    """Apply `tanh` to large sums: some dense outputs in double precision are much more accurate than others."""
    blocks = (Block("linear", 1, True), Block("branches", 1, False), Block("linear", 1, True))
    used = [OPERATIONS[0], OPERATIONS[0], checkpoints.load_plain, training.train, attaching.attach_with_torch]
    plan = Plan(46, "float64", (*blocks, Block("recurrent", 1, False)), 0)
    run_sequence(plan, list(zip(used, [0, 0, 869, 0, 72393], strict=True)), Tally())


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
