"""Sequences of operations, drawn and shrunk by hypothesis: each reproducible from one integer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tools.campaign import attaching, checkpoints, looking, refusals, training, values
from tools.campaign.models import Plan, plans
from tools.campaign.session import Session, Skipped

__all__ = ["OPERATIONS", "Tally", "run_batch", "run_sequence"]

Operation = Callable[[Session, Random], None]


def nothing(session: Session, random: Random) -> None:
    """Do nothing; hypothesis shrinks to this operation."""


# A sequence shrinks to the first operation. An operation listed twice is drawn twice as often.
OPERATIONS: list[Operation] = [
    nothing,
    *[attaching.register_some] * 5,
    *[attaching.register_any] * 2,
    training.train,
    training.train,
    values.assign,
    values.assign,
    values.convert,
    values.freeze,
    values.reset,
    values.empty_and_load,
    attaching.bake_copy,
    attaching.bake_in_place,
    attaching.remove_with_torch,
    attaching.attach_with_torch,
    attaching.deep_copy,
    checkpoints.plain_checkpoint,
    checkpoints.load_plain,
    checkpoints.load_into_another,
    looking.look,
    looking.in_cache,
    looking.with_other_values,
    looking.in_autocast,
    looking.in_inference_mode,
    looking.modes,
    refusals.refuse,
    refusals.refuse,
]


@dataclass
class Tally:
    """Counts of the sequences run, and of the operations by name."""

    sequences: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.sequences += other.sequences
        self.operations += other.operations


def run_sequence(plan: Plan, drawn: list[tuple[Operation, int]], tally: Tally) -> None:
    """Run one sequence and check it after each operation; a failure carries the log."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        warnings.filterwarnings("ignore", message="Complex modules are a new feature")
        warnings.filterwarnings("ignore", message=".* (keeps none of|has nothing to compare)")
        warnings.filterwarnings("ignore", message=".* (reaches the first of|cuts across) the")
        session = Session.of(plan)
        try:
            for operation, seed in drawn:
                _run(session, operation, seed, tally)
            session.check_bystanders()
        except (Exception, pytest.fail.Exception) as error:
            error.add_note("\n".join(["", *session.log]))
            raise
    tally.sequences += 1


def _run(session: Session, operation: Operation, seed: int, tally: Tally) -> None:
    torch.default_generator.manual_seed(seed)
    try:
        operation(session, Random(seed))
    except Skipped:
        return
    session.check()
    tally.operations[operation.__name__] += 1


def run_batch(seed: int, size: int, tally: Tally, longest: int = 16, sparing: bool = False) -> None:
    """Run sequences drawn from one integer; shrink and raise the first failure.

    Args:
        seed: The integer that all sequences are drawn from.
        size: The number of sequences.
        tally: Counts the sequences and operations.
        longest: The largest number of operations in a sequence.
        sparing: Whether to leave out large models.
    """
    operation = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2**32 - 1))

    @hypothesis.seed(seed)
    @settings(
        max_examples=size,
        database=None,
        report_multiple_bugs=False,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans(sparing), st.lists(operation, min_size=longest // 3, max_size=longest))
    def sequences(plan: Plan, drawn: list[tuple[Operation, int]]) -> None:
        run_sequence(plan, drawn, tally)

    sequences()
