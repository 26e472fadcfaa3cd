"""Running compiled code as it was written, to see what it calls: it does not look for hooks that came later."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["uncompiled"]


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let compiled code run as it was written, inside of the block."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the compiler takes seconds to import
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
