"""The assertions of a law, the assertion behind an error, and the law without an assertion."""

from __future__ import annotations

import ast
import inspect
import sys
import traceback
import warnings

import torch
from typing_extensions import override

from parametrizations.testing.check import Law
from parametrizations.testing.subject import Subject

__all__ = ["assertions", "outcome", "without"]

DEMANDS = ("require", "_require", "gradcheck", "gradgradcheck", "load_state_dict", "save")
"""How the names of the functions begin that are called for the error that they may raise."""


def assertions(law: Law) -> dict[int, str]:
    """The assertions of a law, by line."""
    return {node.lineno: ast.unparse(node) for node in _assertions(law)}


def outcome(law: Law, subject: Subject) -> tuple[str, int]:
    """The message of a law, empty if it holds, and the line of its failing assertion, or 0."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            law(subject)
    except Exception as error:
        own = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code is law.__code__]
        at = [node.lineno for node in _assertions(law) if node.lineno <= own[0] <= (node.end_lineno or 0)]
        return f"{type(error).__name__}: {error}", sum(at)
    return "", 0


def without(law: Law, line: int) -> Law:
    """A copy of a law without the assertion at a line."""
    module = sys.modules[law.__module__]
    tree = ast.fix_missing_locations(_PassOver(line).visit(_tree(law)))
    namespace = dict(vars(module))
    exec(compile(tree, str(module.__file__), "exec"), namespace)
    copy: Law = namespace[law.__name__]
    return copy


class _PassOver(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self.line = line

    @override
    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node) if node.lineno == self.line else node


def _tree(law: Law) -> ast.Module:
    lines, first = inspect.getsourcelines(law)
    tree = ast.parse("".join(lines))
    ast.increment_lineno(tree, first - 1)
    return tree


def _assertions(law: Law) -> list[ast.Expr]:
    return [node for node in ast.walk(_tree(law)) if isinstance(node, ast.Expr) and _demands(node.value)]


def _demands(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return ast.unparse(node.func).rpartition(".")[2].startswith(DEMANDS)
