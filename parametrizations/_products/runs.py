"""`Runs`: a gather of numbers that mostly lie side by side, by whole windows in place of one by one.

To bring half a million numbers to their places one by one takes as long as a dense product with one row of 1024 x 1024.
Where the places are runs, as in triangles, bands and staircases, a window of them is one copy in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from parametrizations._products.csr import index_dtype

__all__ = ["Runs", "runs"]

WIDTH = 32
"""Numbers in a window."""

# Measured 2026-11-22, torch 2.13.0, two threads of a shared x86-64 machine: windows alone take 0.4 of the time of all
# numbers one by one, and each of these that is left twice its own.
FEW = 1 / 12
"""Up to so many of the numbers may be left."""
TOGETHER = 2**15
"""Windows that are looked for together: what that takes in memory is small beside the index."""
LEAST = 2**18
"""Up to so many places the calls take longer than what they save."""


@dataclass(frozen=True, eq=False)
class Runs:
    """What ``output[i] = source[index[i]]``, or 0 where the index is negative, copies.

    The source has `WIDTH` zeros in front of it where zeros are wanted.

    Args:
        zeros: How many are in front.
        starts: The first number of each window of the source: ``(outputs // WIDTH,)``.
        singles: The places in the output that the windows leave wrong, and those behind the last window.
        sources: For each of these, which number of the source belongs there.
    """

    zeros: int
    starts: Tensor
    singles: Tensor
    sources: Tensor

    @classmethod
    def of(cls, index: Tensor, size: int) -> Self | None:
        """The windows of an index into a source of so many numbers; None where one by one is as fast."""
        zeros = WIDTH if bool((index < 0).any()) else 0
        whole = index.numel() // WIDTH * WIDTH
        if not whole or size + zeros < WIDTH:
            return None
        parts = torch.split(index[:whole].view(-1, WIDTH), TOGETHER)
        starts, wrong = zip(*(_windows(part, zeros, size - WIDTH) for part in parts), strict=True)
        behind = torch.arange(whole, index.numel(), device="cpu")
        singles = torch.cat([torch.cat(wrong).flatten().nonzero().flatten(), behind])
        if singles.numel() > FEW * min(index.numel(), size):
            return None
        small = index_dtype(size + zeros)
        return cls(zeros, (torch.cat(starts) + zeros).to(small), singles, _behind(zeros, index[singles]).to(small))

    def gather(self, source: Tensor, output: Tensor) -> Tensor:
        """The output, ``(outputs,)``, written from the source, ``(numbers,)``."""
        source = source.resolve_conj().resolve_neg().contiguous()  # or a window would be a copy of all of it
        padded = F.pad(source, (self.zeros, 0)) if self.zeros else source
        windows = padded.as_strided((padded.numel() - WIDTH + 1, WIDTH), (1, 1))
        whole = self.starts.numel() * WIDTH
        torch.index_select(windows, 0, self.starts, out=output.narrow(0, 0, whole).view(-1, WIDTH))
        return output.index_copy_(0, self.singles, padded.index_select(0, self.sources))


def runs(places: Tensor, size: int) -> tuple[Runs, Runs] | None:
    """What brings numbers to these places, ``(numbers,)`` of int64, among so many zeros, and what takes them back.

    None where one by one is about as fast, or half of it is: then the places are written by, which takes their memory.
    """
    if not _are_long(places, size):
        return None
    every = torch.arange(places.numel(), device="cpu")
    there = Runs.of(torch.full((size,), -1, device="cpu").index_copy_(0, places, every), places.numel())
    back = None if there is None else Runs.of(places, size)
    return None if there is None or back is None else (there, back)


def _are_long(places: Tensor, size: int) -> bool:
    """Whether the places may be runs that are long enough, and take long enough: what is seen in one look at them."""
    if size <= LEAST or places.numel() < size / 8:
        return False
    return int((places.diff() != 1).sum()) * WIDTH / 8 <= FEW * places.numel()  # each end leaves some of a window


def _behind(zeros: int, index: Tensor) -> Tensor:
    """An index into the source as one into the source with its zeros in front."""
    return (index + zeros).where(index >= 0, 0)


def _windows(index: Tensor, zeros: int, last: int) -> tuple[Tensor, Tensor]:
    """For each row of an index the start of its window, from ``-zeros`` to ``last``, and which places it leaves wrong.

    A row that spans two runs is served by the one that its first or its last number belongs to.
    """
    kept, within = index >= 0, torch.arange(WIDTH, device="cpu")
    ends = kept.int().argmax(1), WIDTH - 1 - kept.flip(1).int().argmax(1)
    starts, wrong = zip(*(_served(index, kept, within, end, zeros, last) for end in ends), strict=True)
    by_last = wrong[1].sum(1) < wrong[0].sum(1)
    return starts[1].where(by_last, starts[0]), wrong[1].where(by_last[:, None], wrong[0])


def _served(index: Tensor, kept: Tensor, within: Tensor, end: Tensor, zeros: int, last: int) -> tuple[Tensor, Tensor]:
    start = index.gather(1, end[:, None])[:, 0] - end
    start = start.where(kept.any(1), -zeros).clamp(-zeros, last)
    found = start[:, None] + within
    return start, torch.where(kept, found != index, found >= 0)
