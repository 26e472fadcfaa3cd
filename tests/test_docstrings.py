"""Every public name has a docstring with an example; pytest runs the examples."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from typing import get_args

import pytest
from torch import nn

import parametrizations
from parametrizations import Parametrization, masks, positive, testing, typing

MODULES = (parametrizations, masks, positive, testing)
PUBLIC = [
    (module, name) for module in MODULES for name in module.__all__ if not inspect.ismodule(getattr(module, name))
]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda part: getattr(part, "__name__", part))
def test_every_public_name_has_an_example(module: object, name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(module, name)) or "")


def test_public_modules_need_no_import() -> None:
    use = "import parametrizations as p; p.testing.check_parametrization, p.typing.Explanation; "
    star = "import typing; from parametrizations import *; typing.NamedTuple"
    subprocess.run([sys.executable, "-c", use + star], check=True)


@pytest.fixture
def page() -> str:
    return pydoc.render_doc(parametrizations, renderer=pydoc.plaintext)  # type: ignore[attr-defined]


def test_the_help_page_names_everything_and_nothing_of_torch_for_the_main_method(page: str) -> None:
    overview = page.split("PACKAGE CONTENTS")[0]
    own = [value for value in vars(parametrizations).values() if inspect.isclass(value)]
    constraints = {value.__name__ for value in own if issubclass(value, Parametrization)}  # the page lists classes
    assert [name for name in {*parametrizations.__all__} - constraints if f"`{name}" not in overview] == []
    assert "Define the computation performed at every call" not in page


def test_nothing_internal_shows(page: str) -> None:
    assert dir(parametrizations) == sorted([*parametrizations.__all__, "testing", "typing"])
    lines = page.split("PACKAGE CONTENTS")[1].split("\n\n")[0].splitlines()
    shown = {line.split()[0] for line in lines if line.strip()}
    classes = {
        value.__module__.rpartition(".")[2] for value in vars(parametrizations).values() if inspect.isclass(value)
    }
    public = {"masks", "positive", "testing", "typing"}
    assert {name for name in shown if not name.startswith("_")} == classes | public


def test_summary_documents_its_columns_and_explain_the_products() -> None:
    columns, names = inspect.getdoc(parametrizations.summary) or "", inspect.getdoc(parametrizations.explain) or ""
    assert [field for field in typing.Row._fields if f"\n``{field}`` " not in columns] == []
    products = {*get_args(typing.Product)} - {"auto"} | {"own"}
    assert [name for name in products if f'\n``"{name}"`` ' not in names] == []


def test_return_types_are_public() -> None:
    layer = parametrizations.register(nn.Linear(2, 2), {"weight": parametrizations.Diagonal()})
    shown = parametrizations.summary(layer)
    assert (type(shown), type(shown.rows[0])) == (typing.Summary, typing.Row)
    assert type(parametrizations.explain(layer)) is typing.Explanation
    assert type(masks.random(density=0.5)) is typing.MaskRule
