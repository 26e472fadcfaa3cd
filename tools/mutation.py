"""Mutation testing: change one thing in a module at a time and list the mutants that its tests do not notice.

`python -m tools.mutation parametrizations/_torch/chains.py [arguments of pytest]`; without arguments the tests of the
module's folder run. No file is written: a separate process imports each mutant.
"""

from __future__ import annotations

import ast
import copy
import gc
import itertools
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

import pytest
import torch._dynamo  # noqa: F401  # a slow import, done once for all processes
from hypothesis import Phase, settings

NEVER, WAITING = resource.RLIM_INFINITY, 20
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Continue: ast.Break, ast.Break: ast.Pass,
}  # fmt: skip


def changes(node: Any) -> Iterator[tuple[str, Any]]:
    """Pairs of a field of a node and a new value; each pair makes one mutant."""
    for name, value in ast.iter_fields(node):
        for place, part in enumerate(value) if isinstance(value, list) else ((None, value),):
            for other in _others(node, name, part):
                if place is None:
                    yield name, other
                else:
                    yield name, value[:place] + ([] if other is None else [other]) + value[place + 1 :]


def _others(parent: Any, name: str, part: Any) -> Iterator[Any]:
    """Replacements for a part; None removes an element of a list."""
    if type(part) in SWAPS:
        yield SWAPS[type(part)]()
    elif isinstance(part, ast.Constant) and isinstance(part.value, int | float):
        yield ast.Constant(not part.value if isinstance(part.value, bool) else part.value + 1)
    elif isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not | ast.USub):
        yield part.operand
    elif isinstance(part, ast.keyword) and not isinstance(part.value, ast.Constant):
        yield None
    elif isinstance(part, ast.Return) and not isinstance(part.value, ast.Constant | None):
        yield ast.Return(ast.Constant(None))
    elif _can_go(part):
        yield ast.Pass()
    if name == "test" or (name == "ifs" and isinstance(parent, ast.comprehension)):
        yield from (ast.Constant(True), ast.Constant(False))


def _can_go(part: Any) -> bool:
    targets = getattr(part, "targets", [])
    writes = isinstance(part, ast.Assign) and not isinstance(targets[0], ast.Name | ast.Tuple)
    acts = isinstance(part, ast.Expr) and not isinstance(part.value, ast.Constant)
    return writes or acts or isinstance(part, ast.AugAssign | ast.Raise)


def mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """Copies of a tree with one change each, with a description of the change."""
    for index, node in enumerate(ast.walk(_without_annotations(tree))):
        for name, other in changes(node):
            twin = copy.deepcopy(tree)
            place = next(itertools.islice(ast.walk(twin), index, None))
            before = ast.unparse(place)
            setattr(place, name, other)
            yield _said(node, before, ast.unparse(place)), ast.fix_missing_locations(twin)


def _without_annotations(tree: ast.Module) -> ast.Module:
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("object", ast.Load())
    return tree


def _said(node: Any, before: str, after: str) -> str:
    lines = zip(before.splitlines(), after.splitlines(), strict=False)
    old, new = next((pair for pair in lines if pair[0] != pair[1]), (before, after))
    return f"{getattr(node, 'lineno', 0)}: {old.strip()}  ->  {new.strip()}"


def passes(path: Path, tree: ast.Module, arguments: list[str], limit: int = NEVER) -> bool:
    """Whether the tests pass in a process that imports the tree instead of the file.

    Args:
        path: The file of the module.
        tree: The tree to import instead.
        arguments: The arguments of pytest.
        limit: CPU seconds, not wall time, so that a busy machine does not count as a noticed change.
    """
    process = os.fork()
    if not process:
        _run(path, tree, arguments, limit)
    return os.waitpid(process, 0)[1] == 0


def _run(path: Path, tree: ast.Module, arguments: list[str], limit: int) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    signal.alarm(0 if limit == NEVER else WAITING * limit)  # for a process that waits forever
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # saves four fifths of the start-up time
    settings.register_profile("not shrunk", phases=[Phase.explicit, Phase.generate], database=None)
    settings.load_profile("not shrunk")  # the tests' own profile starts from it
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

    def get_code(self: SourceFileLoader, name: str) -> CodeType | None:
        return compile(tree, path, "exec") if Path(self.path) == path else own(self, name)

    own, SourceFileLoader.get_code = SourceFileLoader.get_code, get_code  # type: ignore[assignment, method-assign]
    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", *arguments])))


def main(name: str, *arguments: str) -> None:
    path = Path(name).resolve()
    tests = list(arguments) or [str(Path("tests") / Path(name).parent.relative_to("parametrizations"))]
    tree = ast.parse(path.read_text())
    gc.freeze()  # the forked processes skip the modules imported here
    if not passes(path, tree, tests):
        raise SystemExit(f"{name} needs tests that pass as it is. Got a failure. Run pytest {' '.join(tests)}.")
    limit = 10 + 3 * math.ceil(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime)
    killed = count = 0
    for change, mutant in mutants(tree):
        count += 1
        killed += (noticed := not passes(path, mutant, tests, limit))
        if not noticed:
            print(f"survives: line {change}", flush=True)
    print(f"{name}: {count} mutants, {killed} killed")


if __name__ == "__main__":
    main(*sys.argv[1:])
