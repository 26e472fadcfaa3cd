"""Mutants: one change of a module at a time."""

from __future__ import annotations

import ast

from tools.mutation import mutants

SOURCE = """
def size(x: int) -> int:
    if x > 3 and not x == 7:
        return x + 1
    return -x
"""


def test_every_operator_condition_and_result_is_changed() -> None:
    changed = {said.split(": ", 1)[1] for said, _ in mutants(ast.parse(SOURCE))}
    assert {
        "x > 3  ->  x >= 3",
        "x == 7  ->  x != 7",
        "x + 1  ->  x - 1",
        "return x + 1  ->  return None",
        "return -x  ->  return x",
    } <= changed
    assert any("if True" in one for one in changed)
    assert any("or" in one for one in changed)


def test_each_mutant_has_one_change_and_compiles() -> None:
    trees = [tree for _, tree in mutants(ast.parse(SOURCE))]
    sources = {ast.unparse(tree) for tree in trees}
    assert len(sources) == len(trees) > 10
    for tree in trees:
        compile(tree, "mutant", "exec")
