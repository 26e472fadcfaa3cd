"""Every promise of the contract, over every case of the table."""

from __future__ import annotations

import warnings

import pytest

from parametrizations.laws import LAWS, Skipped
from tests.cases import CASES


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, case: str) -> None:
    with warnings.catch_warnings():
        # gradcheck, compile and export warn about their own experimental parts.
        warnings.simplefilter("ignore")
        try:
            LAWS[law](CASES[case])
        except Skipped as reason:
            pytest.skip(str(reason))
