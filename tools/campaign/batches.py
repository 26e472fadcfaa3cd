"""Run batches of sequences in several processes; each batch is drawn from one integer."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from tqdm import tqdm

from tools.campaign.sequence import Tally, run_batch

__all__ = ["Outcome", "outcomes"]

BATCH = 50
Outcome = tuple[Tally, str | None]
"""The counts, and the first failure with the command to reproduce it, or None."""


def _one_batch(size: int, seed: int) -> Outcome:
    """The tally of a batch, and its finding or None."""
    torch.set_num_threads(1)
    tally = Tally()
    try:
        run_batch(seed, size, tally)
    except (Exception, pytest.fail.Exception) as error:  # a call that did not raise fails with the latter
        notes = "\n".join(getattr(error, "__notes__", []))
        return (
            tally,
            f"{type(error).__name__}: {error}\n{notes}\npython -m tools.campaign --sequences {size} --seed {seed}",
        )
    return tally, None


def outcomes(sequences: int, seed: int, minutes: float, workers: int) -> Iterator[Outcome]:
    """Run batches until the number of sequences or the time limit is reached."""
    end = time.monotonic() + 60 * minutes
    size = min(BATCH, sequences)
    seeds = range(seed, seed + math.ceil(sequences / size))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for outcome in tqdm(pool.imap_unordered(partial(_one_batch, size), seeds), total=len(seeds), unit="batch"):
            yield outcome
            if time.monotonic() > end:
                return
