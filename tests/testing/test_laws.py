"""Every promise of the contract, over every case of the table."""

from __future__ import annotations

import warnings

import pytest

from parametrizations.testing.laws import LAWS
from parametrizations.testing.requirements import Skipped
from tests.cases import CASES

# Tracing takes a second a case and does not look at the dtype: one real and one complex dtype are enough.
TRACING = {"compiles", "exports", "fused_layers_compile", "fused_layers_export"}
PAIRS = [
    (law, case) for law in LAWS for case in CASES if law not in TRACING or case.endswith(("-float32", "-complex64"))
]


@pytest.mark.parametrize(("law", "case"), PAIRS, ids=map("-".join, PAIRS))
def test_law(law: str, case: str) -> None:
    with warnings.catch_warnings():
        # gradcheck, compile and export warn about their own experimental parts.
        warnings.simplefilter("ignore")
        try:
            LAWS[law](CASES[case])
        except Skipped as reason:
            pytest.skip(str(reason))
