"""The manual: its code runs, it lists every public name, and its pictures have alternative texts."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import parametrizations
from parametrizations import masks, positive, testing, typing

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [
    (module.__name__, name)
    for module in (parametrizations, masks, positive, testing, typing)
    for name in module.__all__
    if not inspect.ismodule(getattr(module, name))
]
ONE_PROCESS = """
    import sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard
    from parametrizations import Diagonal, MaskedSparse, masks, plain_state_dict, register

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

        def forward(self, input):
            return self.layers(input)

    def train(model, optimizer):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model, rules = Model(), {"layers.0.weight": Diagonal(), "layers.1.weight": MaskedSparse(masks.random(density=0.5))}
"""
AFTERWARDS = """
    plain = torch.load("plain.pt")
    Model().load_state_dict(plain)
    print(sorted(plain))
"""


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_without_prompts_is_valid_python(page: Path) -> None:
    changed = [
        "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[:1] != "-") for diff in blocks(page, "diff")
    ]
    for code in blocks(page, "python") + changed:
        compile(code, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_without_prompts_has_no_prompt(page: Path) -> None:
    # A copy button copies only the lines with prompts, if there are any.
    lines = [line for kind in ("python", "sh", "diff") for code in blocks(page, kind) for line in code.splitlines()]
    assert [line for line in lines if line.startswith((">>>", "...", "$ "))] == []


def test_the_code_for_many_machines_runs(tmp_path: Path) -> None:
    [code] = blocks(ROOT / "docs/guides/many_machines.md", "python")
    (tmp_path / "code.py").write_text(dedent(ONE_PROCESS) + code + dedent(AFTERWARDS))
    ran = subprocess.run(
        [sys.executable, "code.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.stdout.splitlines()[-1:] == [
        "['layers.0.bias', 'layers.0.weight', 'layers.1.bias', 'layers.1.weight']"
    ], ran.stderr


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_the_reference_has_every_public_name(module: str, name: str) -> None:
    pages = {page.stem: page.read_text() for page in (ROOT / "docs/api").glob("*.md")}
    listed = any(
        re.search(rf"\.\. (autoclass|autofunction|py:data):: {name}$", text, re.MULTILINE) for text in pages.values()
    )
    whole = any(f"automodule:: {module}\n" in text for text in pages.values())
    assert listed or whole


def test_the_reference_lists_every_choice() -> None:
    page = (ROOT / "docs/api/typing.md").read_text().replace('"', "'")
    for name in ("Infeasible", "Product"):
        assert f":type: {getattr(typing, name)!r}".replace("typing.", "") in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_picture_has_a_text(page: Path) -> None:
    assert "![](" not in page.read_text()


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert sum(line.startswith("python3 -m venv ") for line in lines) == 2
