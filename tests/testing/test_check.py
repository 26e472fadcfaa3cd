from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, ZeroDiagonal, masks
from parametrizations.testing import check_parametrization
from parametrizations.testing.check import LAWS
from parametrizations.testing.requirements import Broken
from parametrizations.testing.subject import Subject
from tests.cases import checkerboard, weight
from tests.testing.broken.registering import InvertsBadly
from tests.testing.broken.rest_of_pytorch import LooksAtValues
from tests.testing.broken.stored_values import Unwritten


class OneEntryOff(ZeroDiagonal):
    """A product with one entry of the weight off by a thousandth."""

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        factors = torch.ones_like(x)
        factors[7, 3] = 1.001
        return F.linear(input, self(x * factors), bias)


@pytest.mark.parametrize(
    "parametrization",
    [Diagonal(), ZeroDiagonal(), NegExpDiagonal(), MaskedSparse(checkerboard((6, 5)))],
    ids=lambda p: type(p).__name__,
)
def test_the_four_constraints_pass_every_law(parametrization: nn.Module) -> None:
    outcome = check_parametrization(parametrization, weight((6, 5)))
    assert outcome == dict.fromkeys(LAWS, "held")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e4])
def test_tolerances_follow_the_scale_of_the_terms(scale: float) -> None:
    checked = Subject(MaskedSparse(checkerboard((40, 30)), product="strips"), scale * weight((40, 30)))
    for law in ("linear_is_the_dense_product", "linear_works_under_vmap", "fused_layers_are_the_layers"):
        LAWS[law](checked)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e4])
def test_a_product_with_one_wrong_entry_is_caught_at_every_scale(scale: float) -> None:
    checked = Subject(OneEntryOff(), scale * weight((40, 30)))
    for law in ("linear_is_the_dense_product", "fused_layers_are_the_layers"):
        with pytest.raises(Broken, match=r"differs in \d+ of \d+ entries"):
            LAWS[law](checked)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-10, 1e-5, 1e-3, 1.0, 1e4, 1e6, 1e30])
@pytest.mark.parametrize("make", [Diagonal, ZeroDiagonal, NegExpDiagonal, lambda: MaskedSparse(checkerboard((4, 3)))])
def test_dtypes_and_tolerances_follow_the_scale(
    make: Callable[[], nn.Module], scale: float, dtype: torch.dtype
) -> None:
    start = (scale * weight((4, 3), torch.float64)).to(dtype)
    for law in ("dtype_moves", "contains_takes_a_tolerance"):
        if bool(start.isfinite().all()):
            LAWS[law](Subject(make(), start))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_a_weight_that_does_not_follow_the_dtype_is_caught_at_every_scale(scale: float) -> None:
    class Half(ZeroDiagonal):
        """Halves its weight in half precision."""

        @override
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / 2 if x.dtype is torch.float16 else x)

    with pytest.raises(Broken, match=r"After .to\(torch.float16\) the weight is off by 0.[45]"):
        LAWS["dtype_moves"](Subject(Half(), scale * weight((4, 3))))


class ClaimsToRoundALot(NegExpDiagonal):
    @override
    def rounding(self, weight: Tensor) -> Tensor:
        return 1e4 * super().rounding(weight)


@pytest.mark.parametrize("law", ["registering_keeps_a_member", "assigning_keeps_a_member"])
def test_no_parametrization_may_claim_to_round_by_more_than_rounding(law: str) -> None:
    with pytest.raises(Broken, match=r"rounding\(weight\) returns up to 0.0\d+. At most \d.\d+e-05 is accepted"):
        LAWS[law](Subject(ClaimsToRoundALot(), weight((6, 5))))


def test_a_law_that_does_not_apply_says_why() -> None:
    outcome = check_parametrization(MaskedSparse(masks.magnitude(density=0.5)), weight((4, 4)))
    assert outcome["meta_registration"].startswith("skipped: it cannot be registered on meta: magnitude")


def test_the_report_names_each_broken_promise_with_figures() -> None:
    with pytest.raises(AssertionError) as raised:
        check_parametrization(InvertsBadly(), weight((6, 5)))
    report = str(raised.value)
    assert report.startswith(f"InvertsBadly breaks 2 of {len(LAWS)} promises.")
    assert "- assigning_keeps_a_member: Assigning a weight in the set gives that weight" in report
    assert "A member that is assigned moved in 25 of 30 entries, by at most 0.0" in report


def test_the_checked_objects_stay_unchanged() -> None:
    parametrization, given = ZeroDiagonal(), weight((4, 4))
    kept, state = given.clone(), torch.get_rng_state()
    check_parametrization(parametrization, given)
    assert parametrization.shape is None
    assert torch.equal(given, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_weight_that_cannot_be_registered_is_reported_once() -> None:
    with pytest.raises(AssertionError, match=r"NegExpDiagonal cannot be checked on this weight: .*2 dimensions"):
        check_parametrization(NegExpDiagonal(), weight((3, 3, 3)))


def test_swapped_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a parametrization. Got Tensor. Pass Diagonal\(\), then the weight"):
        check_parametrization(torch.ones(2, 2), Diagonal())  # type: ignore[arg-type]


def test_a_module_and_a_tensor_are_both_needed() -> None:
    with pytest.raises(TypeError, match=r"check_parametrization needs a .*tensor. Got list."):
        check_parametrization(Diagonal(), [[1.0]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"needs a parametrization. Got the class Diagonal: write Diagonal\(\)\. Pass"):
        check_parametrization(Diagonal, torch.ones(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [torch.ones(0, 3), torch.ones(3, 3, device="meta")])
def test_only_a_weight_with_values_is_checked(wrong: Tensor) -> None:
    got = rf"{re.escape(str(tuple(wrong.shape)))} on {wrong.device}"
    with pytest.raises(
        ValueError, match=rf"needs a weight with values. Got shape {got}. Pass e.g. torch.randn\(4, 3\)"
    ):
        check_parametrization(MaskedSparse(masks.lower_triangular()), wrong)


@pytest.mark.parametrize(
    ("wrong", "got"), [(torch.ones(3, 3).int(), "torch.int32"), (torch.ones(3, 3).to_sparse(), "torch.sparse_coo")]
)
def test_only_dense_weights_of_real_or_complex_numbers_are_checked(wrong: Tensor, got: str) -> None:
    with pytest.raises(TypeError, match=rf"check_parametrization needs a .* Got {got}."):
        check_parametrization(Diagonal(), wrong)


def test_every_missing_method_is_named_at_once() -> None:
    with pytest.raises(TypeError, match=r"Unwritten needs methods .*Got no forward, no excess, no project"):
        check_parametrization(Unwritten(), weight((3, 3)))


def test_an_unexpected_error_is_named() -> None:
    with pytest.raises(AssertionError, match=r"func_transforms_work: .*\n    RuntimeError: vmap"):
        check_parametrization(LooksAtValues(), weight((3, 3)))


def test_it_works_under_no_grad_and_with_warnings_as_errors() -> None:
    class Warns(ZeroDiagonal):
        @override
        def right_inverse(self, weight: Tensor) -> Tensor:
            warnings.warn("only said", stacklevel=1)
            return super().right_inverse(weight)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = check_parametrization(Warns(), weight((3, 3)))
    assert set(outcome.values()) == {"held"}
