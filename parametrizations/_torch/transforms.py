"""Detects active transforms, compilers and tracers, chooses autograd functions, and runs compiled code eagerly."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, forward_ad

from parametrizations._torch.private import (
    are_transforms_active,
    dispatch_modes,
    forward_levels,
    is_legacy_batched,
    is_traced,
)


def may_look_at_values(x: Tensor) -> bool:
    """Whether a shortcut may read the values of ``x``: a plain CPU tensor, no compiler, transform or dispatch mode."""
    if type(x) not in (Tensor, nn.Parameter) or not x.is_cpu or torch.compiler.is_compiling():
        return False
    return not (dispatch_modes() or is_traced() or are_transforms_active() or is_legacy_batched(x))


def has_tangent(*tensors: Tensor) -> bool:
    """Whether a tensor is a dual number, so that its operations need forward derivatives."""
    unpack: Any = forward_ad.unpack_dual
    return any(unpack(tensor).tangent is not None for tensor in tensors)


SMALL = 2**18
"""Up to this number of entries, a ``jvp`` with the dense weight takes less time than with autograd functions: PyTorch
needs 0.3 ms for each autograd function with ``jvp`` (measured 2026-11-30, torch 2.13.0, CPU)."""


def needs_plain_autograd(entries: int, *tensors: Tensor) -> bool:
    """Whether the autograd functions of this library would fail, be wrong, or be slow for a weight with ``entries``.

    Under ``jvp`` they are slow for up to `SMALL` entries. PyTorch drops the outer tangent of nested ``jvp`` transforms.
    `torch.compile` does not trace autograd functions with
    ``jvp`` and ``vmap``. Backward passes with ``is_grads_batched`` or ``jacobian(vectorize=True)`` use the predecessor
    of `torch.func.vmap`, which supports neither the ``vmap`` method of autograd functions nor sparse tensors.
    """
    if torch.compiler.is_compiling():
        return are_transforms_active()
    return (are_transforms_active() and forward_levels() > (entries > SMALL)) or any(map(is_legacy_batched, tensors))


def is_differentiated(*tensors: Tensor) -> bool:
    """Whether the running backward pass, which uses these tensors, must be differentiable.

    This is the case if the pass is differentiated, compiled or transformed.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or are_transforms_active():
        return True
    return has_tangent(*tensors) or any(map(is_legacy_batched, tensors))


def is_recorded() -> bool:
    """Whether operations are compiled, or recorded, faked or counted by a dispatch mode, as `make_fx` has one.

    `torch.jit.trace` does not count: see `is_traced`.
    """
    return torch.compiler.is_compiling() or dispatch_modes() > 0


def eager_form(function: type[Function]) -> type[Function]:
    """The function with the context as an argument of ``forward``: faster, but not supported by `torch.func`."""

    class Eager(function):  # type: ignore[misc, valid-type]
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = function.forward(*arguments)
            function.setup_context(ctx, arguments, output)
            return output

        setup_context = Function.setup_context

    return Eager


def function_for(compiled: type[Function], transformed: type[Function], eager: type[Function]) -> Callable[..., Tensor]:
    """The autograd function for the current mode.

    `torch.compile` traces a function with ``setup_context`` and without ``jvp``. The transforms of `torch.func` need
    ``setup_context``, ``jvp`` and ``vmap``. In eager mode a ``forward`` with the context is faster: for
    ``setup_context`` PyTorch inspects the signature at every call, which takes as long as a small product.
    """
    if torch.compiler.is_compiling():
        return compiled.apply
    return transformed.apply if are_transforms_active() else eager.apply


def is_traced_for_a_file() -> bool:
    """Whether `torch.export` or `torch.jit.trace` is active: exported files must not depend on this library."""
    return torch.compiler.is_exporting() or is_traced()


def uncompiled() -> AbstractContextManager[None]:
    """A context manager that runs compiled code eagerly: compiled code ignores hooks added after its compilation."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the compiler takes seconds to import
        return nullcontext()
    eager: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return eager
