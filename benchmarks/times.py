"""The times of all contestants: a table for each constraint, and for each batch size where densities are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from benchmarks.cases import Case
from benchmarks.contestants import CONSTRAINTS, PLAIN
from benchmarks.measure import FORWARDS, STEPS
from benchmarks.results import Measured
from benchmarks.tables import table

__all__ = ["multiple", "times"]

Cases = Mapping[Case, Measured]


def times(cases: Cases) -> Iterator[str]:
    """The parts of the section, one after the other."""
    ordered = sorted(cases.items(), key=lambda item: _place(item[0]))
    for heading, group in groupby(ordered, key=lambda item: _heading(*item)):
        together = dict(group)
        yield f"### {heading}"
        yield _table(together)
        yield _paths(together)


WORKS = ("step", "loop", "forward")


def _place(case: Case) -> tuple[int | float | str, ...]:
    kind = WORKS.index(case.work), list(CONSTRAINTS).index(case.constraint), bool(case.structure)
    return *kind, not case.fits_densely, case.batch, case.n, case.density, case.structure


def _heading(case: Case, measured: Measured) -> str:
    parts = [
        case.constraint,
        *(
            {"loop": f"{STEPS} steps of a loop", "forward": f"{FORWARDS} forward passes"}[work]
            for work in [case.work]
            if work != "step"
        ),
    ]
    parts += ["masks with structure"] if case.structure else []
    if case.density:
        parts.append(f"batch {case.batch}")
    if measured.base != PLAIN:
        parts.append(f"multiples of `{measured.base}`")
    return ", ".join(parts)


def _table(cases: Cases) -> str:
    base, *others = dict.fromkeys(name for measured in cases.values() for name in measured.timings)
    work = list(dict.fromkeys(name for case in cases for name in _work(case)))
    rows = ([*_work(case).values(), *_cells(measured, others)] for case, measured in cases.items())
    return table([*work, "path", f"{base}, ms", *others], rows)


def _work(case: Case) -> dict[str, str]:
    work = {"features": f"{case.n}", "batch": f"{case.batch}"}
    work |= {"mask": case.structure} if case.structure else {}
    return work | {"kept": f"{case.density:.1%}"} if case.density else work


def _cells(measured: Measured, others: list[str]) -> list[str]:
    base = measured.timings[measured.base]
    multiples = (multiple(measured.multiple(name)) if name in measured.timings else "" for name in others)
    return [measured.path.name, f"{base.median:.3f} ({base.low:.3f} to {base.high:.3f})", *multiples]


def multiple(ratio: float) -> str:
    """As it is shown: two digits that tell something."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _paths(cases: Cases) -> str:
    """Why each path was taken."""
    taken = dict.fromkeys(measured.path for measured in cases.values())
    return "Paths: " + "; ".join(f"{path.name} ({path.why})" for path in taken) + "."
