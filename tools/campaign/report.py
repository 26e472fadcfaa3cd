"""Write the findings of a campaign into ``tests/RELIABILITY.md``."""

from __future__ import annotations

import datetime
import platform
import re
from pathlib import Path

import torch

from tools.campaign.sequence import Tally

__all__ = ["PAGE", "counts", "write"]

PAGE = Path(__file__).parents[2] / "tests" / "RELIABILITY.md"
BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"


def counts(tally: Tally, findings: list[str]) -> str:
    """The counts for each operation and the findings, as Markdown."""
    rows = "\n".join(f"| `{name}` | {count:,} |" for name, count in sorted(tally.operations.items()))
    found = "\n\n".join(f"```text\n{finding}\n```" for finding in findings) or "Findings: none."
    return f"| operation | times |\n|---|---|\n{rows}\n\n{found}"


def write(command: str, tally: Tally, findings: list[str]) -> None:
    """Replace the last run on the page by this one."""
    cores = platform.machine()
    said = (
        f"`{command}`, {datetime.datetime.now(tz=datetime.UTC).date()}, torch {torch.__version__} on {cores} "
        f"({torch.backends.cpu.get_cpu_capability()}): {tally.sequences:,} sequences, "
        f"{sum(tally.operations.values()):,} operations, {len(findings)} findings."
    )
    text = f"{BEGIN}\n{said}\n\n{counts(tally, findings)}\n{END}"
    PAGE.write_text(re.sub(f"(?ms)^{BEGIN}.*?^{END}", lambda _: text, PAGE.read_text()))
