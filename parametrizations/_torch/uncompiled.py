"""Eager execution of compiled code. Compiled code ignores hooks registered after its compilation."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["uncompiled"]


def uncompiled() -> AbstractContextManager[None]:
    """A context manager: compiled code runs eagerly inside, so that all of its calls can be observed."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the compiler takes seconds to import
        return nullcontext()
    eager: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return eager
