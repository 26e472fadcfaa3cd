"""What is public has a docstring with an example; pytest runs the examples themselves."""

from __future__ import annotations

import inspect
import pydoc

import pytest

import parametrizations
from parametrizations import masks, testing

PUBLIC = [(module, name) for module in (parametrizations, masks, testing) for name in module.__all__ if name != "masks"]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda part: getattr(part, "__name__", part))
def test_every_public_name_has_an_example(module: object, name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(module, name)) or "")


def test_the_help_page_names_everything_and_nothing_of_torch_for_the_main_method() -> None:
    page = pydoc.render_doc(parametrizations, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    overview = page.split("PACKAGE CONTENTS")[0]
    assert [name for name in parametrizations.__all__ if f"`{name}" not in overview and name != "masks"] == []
    assert "Define the computation performed at every call" not in page
