"""Inject a failure at each line that a call runs in this library or in PyTorch's parametrize."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

import parametrizations
from parametrizations._models import initialize
from parametrizations._models.changes import Changes

OURS = Path(parametrizations.__file__).parent
FILES = {str(path) for path in OURS.rglob("*.py")} | {parametrize.__file__}
COMMIT = Changes.commit.__code__
"""The function that changes the model: assignments that cannot fail, and the last step of a call."""
RESTORE = inspect.unwrap(initialize._plain).__code__
"""The function that makes a module plain during its initialisation and constrains it again, also by assignments."""


class Injected(Exception):
    """The injected failure."""


def fail_at(step: int, call: Callable[[], object]) -> int:
    """Run the call and fail at its line number ``step``. Returns the number of lines run before the commit."""
    seen, committed = 0, False

    def trace(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG001
        nonlocal seen, committed
        committed = committed or frame.f_code is COMMIT
        if frame.f_code.co_filename not in FILES or frame.f_code is RESTORE or committed:
            return None
        if event == "line":
            seen += 1
            if seen == step:
                raise Injected
        return trace

    before = sys.gettrace()
    with torch.enable_grad():  # a failure inside a `with` leaves PyTorch's gradient mode changed
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
    return seen


def failures(call: Callable[[], object]) -> Iterator[int]:
    """Fail the call at its first line, its second, and so on until it succeeds; yields the line numbers."""
    for step in itertools.count(1):
        try:
            fail_at(step, call)
        except Injected:
            yield step
        else:
            assert step > 5
            return


def everything(model: nn.Module) -> list[object]:
    """A snapshot of classes, attributes, hooks, and every tensor with its gradient, bit for bit, in order."""
    found: list[object] = []
    for name, module in model.named_modules():
        found += [name, type(module), id(module), *(repr(key) for key in vars(module))]
        found += [len(value) for value in vars(module).values() if isinstance(value, dict | list | set)]
        for tensors in (module._parameters, module._buffers):
            found += [(key, _bits(tensor)) for key, tensor in tensors.items()]
    return found


def held_by(optimizer: torch.optim.Optimizer) -> list[object]:
    """A snapshot of an optimizer's parameters and their state."""
    groups = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    states = [
        (id(key), name, torch.as_tensor(value).tolist())
        for key, state in optimizer.state.items()
        for name, value in state.items()
    ]
    return [*groups, *states]


def _bits(tensor: torch.Tensor | None) -> object:
    if tensor is None:
        return None
    grad = None if tensor.grad is None else tensor.grad.tolist()
    return id(tensor), tensor.requires_grad, tuple(tensor.shape), tensor.detach().tolist(), grad
