"""Only one file uses private names of torch, and tests use public names of this library."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import parametrizations

PACKAGE, TESTS = Path(parametrizations.__file__).parent, Path(__file__).parents[1]
FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "_torch" / "private.py"]

PYTHONS = {"_fields", "_getframe", "_replace"}
OVERRIDDEN = {"_apply", "_load_from_state_dict", "_save_to_state_dict"}  # nn.Module lets subclasses override these
# Names that constraints share with calls on whole models, and names that users need not know.
OURS = {
    "_checked_excess",
    "_is_own",
    "_known_shape",
    "_product",
    "_rearrange",
    "_require_complete",
    "_require_matrix",
    "_require_stored",
    "_set_positions",
    "_structure",
    "_with_positions",
    "_with_rule",
}
# Tests that import private modules of this library; each says why.
REACH_INSIDE = {"thresholds.py", "_products/test_unreachable.py"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def private_names(source: str) -> set[str]:
    """Private attributes of other objects that a source reads, and private modules of torch that it imports."""
    tree = ast.parse(source)
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)]
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    private = {name for name in modules if name.startswith("torch") and any(map(is_private, name.split(".")))}
    return private | {node.attr for node in attributes} - set(own_names(tree))


def test_private_names_of_torch_are_in_one_file() -> None:
    found = {str(path): private_names(path.read_text()) - PYTHONS - OVERRIDDEN - OURS for path in FILES}
    assert {name: names for name, names in found.items() if names} == {}


def test_the_search_finds_private_names() -> None:
    assert private_names("import torch\ntorch._C._get_tracing_state()") == {"_C", "_get_tracing_state"}
    assert private_names("from torch._dynamo import reset") == {"torch._dynamo"}
    assert private_names("def f(self):\n    return self._modules") == {"_modules"}
    assert private_names("class A:\n    def f(self):\n        self._own = 1\n        return self._own") == set()


def test_tests_use_public_modules() -> None:
    inside = re.compile(r"^ *(?:from|import) parametrizations(?:\._| import _)", re.MULTILINE)
    sources = {path.relative_to(TESTS).as_posix(): path.read_text() for path in TESTS.rglob("*.py")}
    assert {name for name, source in sources.items() if inside.search(source)} == REACH_INSIDE
