"""The report, in markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.contestants import OURS, PLAIN, REGISTERED, STRUCTURED
from benchmarks.outcome import found, outcomes
from benchmarks.profiles import SHOWN, Profile
from benchmarks.results import Results
from benchmarks.tables import table
from benchmarks.times import times

__all__ = ["report"]


def report(results: Results) -> str:
    """What was found in one line, then the figures to reach, and then everything in tables."""
    parts = (
        "# What the constraints cost",
        found(results.goals),
        results.origin,
        "## Figures to reach",
        "The time that ours takes, as a multiple of what the fastest of those beside it takes. What limits the "
        "rows that are not reached: [limits.md](limits.md).",
        outcomes(results.goals),
        "## Times",
        "Forward and backward for input, weight and bias, float32. Contestants take turns in one process. Median "
        f"milliseconds of `{PLAIN}` (quartiles), and every other contestant as a multiple of it.",
        f"`{REGISTERED}` is PyTorch's own `register_parametrization` alone; `{OURS}` has `fuse` on top, and its path "
        f"is the one in the table; `{STRUCTURED}` is asked for with `product='structured'`.",
        *times(results.cases),
        "## Further",
        table(("what", "figure"), results.further.items()),
        "## Memory",
        "What a step with Adam adds to the imported libraries, each in a process of its own.",
        table(("work", "MB"), ((work, f"{megabytes:.0f}") for work, megabytes in results.memory.items())),
        "## Profiles",
        "Where the time of a step goes, in milliseconds (PyTorch's profiler, which adds some of its own).",
        _profiles(results.profiles),
    )
    return "\n\n".join(parts) + "\n"


def _profiles(profiles: Iterable[Profile]) -> str:
    header = ("work", "contestant", "most in", *["then in"] * (SHOWN - 1))
    rows = ((str(profile.case), profile.contestant, *_operations(profile)) for profile in profiles)
    return table(header, rows)


def _operations(profile: Profile) -> list[str]:
    shown = [f"{name} {milliseconds:.2f}" for name, milliseconds in profile.operations]
    return shown + [""] * (SHOWN - len(shown))
