"""Every promise of the contract, over every case of the table."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from parametrizations import register
from parametrizations.testing.check import LAWS
from parametrizations.testing.requirements import Skipped
from parametrizations.testing.subject import Subject
from tests.cases import CASES, OTHER_CASES

# Tracing takes a second per case. It does not depend on the dtype, on the treatment of infeasible weights, or on the
# positions in a mask. One real and one complex dtype are enough, and one mask of each kind.
TRACING = {"compiles", "exports"}
ALIKE = ("-project-", "-random-", "-magnitude-", "-triangular-")


# The format of the positions matters to products, and to moving, copying, saving and loading.
FORMS = ("MaskedSparse-structured-",)
OF_FORMS = {"products", "rest_of_pytorch"}


def is_tried(law: str, case: str) -> bool:
    if case.startswith(FORMS) and LAWS[law].__module__.rpartition(".")[2] not in OF_FORMS:
        return False
    differs = case.endswith(("-float32", "-complex64")) and not any(part in case for part in ALIKE)
    return law not in TRACING or differs


def with_marks(law: str, case: str) -> object:
    """A pair with its marks. Tracing every shape and dtype is the slowest part, so only CI traces more than one."""
    slow = law in TRACING and not case.endswith("-square-float32")
    return pytest.param(law, case, id=f"{law}-{case}", marks=[pytest.mark.slow] if slow else [])


SUBJECTS = CASES | OTHER_CASES
PAIRS = [with_marks(law, case) for law in LAWS for case in SUBJECTS if is_tried(law, case)]


@pytest.mark.parametrize(("law", "case"), PAIRS)
def test_law(law: str, case: str) -> None:
    with warnings.catch_warnings():
        # gradcheck, compile and export warn about their own experimental parts.
        warnings.simplefilter("ignore")
        try:
            LAWS[law](SUBJECTS[case])
        except Skipped as reason:
            pytest.skip(str(reason))


@dataclass(frozen=True)
class Tied(Subject):
    """A subject whose layers are tied to another layer, which has to keep the same weight."""

    pairs: list[Any] = field(default_factory=list)

    @override
    def layer(self, weight: Tensor | None = None) -> Any:
        pair = nn.ModuleList([self.plain(weight), self.plain(weight)])
        pair[1].weight = pair[0].weight
        register(pair, {"*.weight": self.fresh()})
        self.pairs.append(pair)
        return pair[0]


TIED = ("Diagonal", "ZeroDiagonal", "NegExpDiagonal", "MaskedSparse", "MaskedSparse-magnitude")
UNTYING = "removal_gives_a_plain_layer"
"""PyTorch's `remove_parametrizations` knows one module alone."""


@pytest.mark.parametrize("law", [law for law in LAWS if law not in TRACING])
@pytest.mark.parametrize("kind", TIED)
def test_law_of_a_tied_pair(law: str, kind: str) -> None:
    one = CASES[f"{kind}-tall-float32"]
    subject = Tied(one.parametrization, one.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            LAWS[law](subject)
        except Skipped as reason:
            pytest.skip(str(reason))
    for first, second in subject.pairs if law != UNTYING else ():
        if not any(tensor.is_meta for tensor in first.parameters()):
            assert torch.equal(first.weight.nan_to_num(), second.weight.nan_to_num())
