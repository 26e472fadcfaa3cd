"""Docstrings of public names follow one pattern; pytest runs their examples."""

from __future__ import annotations

import dataclasses
import inspect
import pydoc
import re
import subprocess
import sys
from typing import Any, get_args

import pytest
from torch import Tensor, nn

import parametrizations
from parametrizations import Parametrization, masks, positive, signs, testing, typing

MODULES = (parametrizations, masks, positive, signs, testing)
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
}
RESULTS = {name: getattr(typing, name) for name in typing.__all__ if inspect.isclass(getattr(typing, name))}
CONSTRAINTS = [value for value in PUBLIC.values() if inspect.isclass(value) and issubclass(value, Parametrization)]


HEADINGS = ["Args", "Returns", "Yields", "Raises", "Example"]


def missing(value: Any) -> list[str]:
    """The parts of the pattern that a docstring lacks."""
    doc = inspect.getdoc(value) or ""
    title, *rest = doc.split("\n\n")
    parts = {heading: text for part in rest for heading, colon, text in [part.partition(":\n")] if colon}
    stores = dataclasses.is_dataclass(value) or value is masks.Kept  # its arguments, without checks
    lacks = {
        "one summary sentence": re.fullmatch(r"\S[^\n]*[.]", title) is None or ". " in title,
        "Returns": not inspect.isclass(value) and parts.keys().isdisjoint({"Returns", "Yields"}),
        "Raises": not stores and "Raises" not in parts,
        "Example": ">>> " not in parts.get("Example", ""),
        "the number of a paper": " et al." in doc and re.search(r"arXiv\s+\d{4}\.\d{5}", doc) is None,
        "the order": (found := [part for part in parts if part in HEADINGS]) != sorted(found, key=HEADINGS.index),
    }
    entries = dict(re.findall(r"(?m)^    (\w+): (.*(?:\n {8}.*)*)", parts.get("Args", "")))
    for name, parameter in inspect.signature(value).parameters.items():
        is_tensor = "Tensor" in str(parameter.annotation) and "Callable" not in str(parameter.annotation)
        has_shape = re.search(r"``\([^)]*,[^)]*\)``|shape", entries.get(name, "")) is not None
        lacks |= {f"the argument {name}": name not in entries, f"the shape of {name}": is_tensor and not has_shape}
    return [part for part, is_missing in lacks.items() if is_missing]


@pytest.mark.parametrize("value", PUBLIC.values(), ids=PUBLIC)
def test_the_docstring_of_a_public_name_is_complete(value: Any) -> None:
    assert missing(value) == []


def test_a_missing_part_is_noticed() -> None:
    def stub(x: Tensor) -> Tensor:
        """One. Two: Germain et al., 2015."""
        return x

    parts = ["one summary sentence", "Returns", "Raises", "Example", "the number of a paper"]
    assert missing(stub) == [*parts, "the argument x", "the shape of x"]
    stub.__doc__ = (
        "One.\n\nExample:\n    >>> 1\n\nReturns:\n    It.\n\nRaises:\n    E: If so.\n\nArgs:\n    x: A tensor."
    )
    assert missing(stub) == ["the order", "the shape of x"]


@pytest.mark.parametrize("value", RESULTS.values(), ids=RESULTS)
def test_a_result_names_its_fields_and_the_call_that_returns_it(value: Any) -> None:
    doc = inspect.getdoc(value) or ""
    calls = [call for call in parametrizations.__all__ if f"`{call}`" in doc]
    assert calls or ">>> " in doc
    described = "".join(inspect.getdoc(getattr(parametrizations, call)) or "" for call in calls) + doc
    fields = [*getattr(value, "_fields", [])] or list(inspect.get_annotations(value)) or ["name", "shape"]
    assert [field for field in fields if not re.search(rf"``{field}``|^    {field}: ", described, re.MULTILINE)] == []


@pytest.mark.parametrize("kind", CONSTRAINTS, ids=lambda kind: kind.__name__)
def test_a_constraint_shows_its_formula_and_register(kind: type[Parametrization]) -> None:
    doc = inspect.getdoc(kind) or ""
    assert "register(" in doc
    assert "register_parametrization" not in doc
    assert "``weight" in doc or kind is Parametrization


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
    public = {"masks", "positive", "signs", "testing", "typing"}
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
