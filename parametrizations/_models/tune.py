"""`tune`: the fastest way to multiply for each constrained layer, by measurement."""

from __future__ import annotations

import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from typing_extensions import override

from parametrizations._models.fuse import explain
from parametrizations._models.layer import has_fused_forward
from parametrizations._models.places import constrained_places
from parametrizations._models.tables import as_html, as_text
from parametrizations._products.choice import Product
from parametrizations._products.operands import AUTOCAST
from parametrizations._torch.chains import chain_of, steps
from parametrizations._torch.loops import forget
from parametrizations._torch.private import answered_from_cache, are_transforms_active, hooks_of
from parametrizations._torch.uncompiled import uncompiled
from parametrizations.parametrization import Parametrization

__all__ = ["Tuned", "Tuning", "tune"]

ROUNDS = 5
"""Each way is timed at least so many times."""
SECONDS = 0.3
"""The ways of one layer are timed for so long, together, if that is more."""
CALLS = 16
"""Of a loop over time so many steps are timed."""


class Tuned(NamedTuple):
    """One fused layer: its weight's name, the median time of each way in milliseconds, and the way that is taken now.

    Without times where the model did not call the layer, or in a transform of `torch.func` alone; or it has one way.
    """

    name: str
    milliseconds: Mapping[str, float]
    chosen: str


@dataclass(frozen=True)
class Tuning:
    """Rows that print as a table, in a terminal and in a notebook."""

    rows: tuple[Tuned, ...]

    @override
    def __str__(self) -> str:
        return as_text(self._lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self._lines())

    def _lines(self) -> list[tuple[str, ...]]:
        return [("name", "milliseconds", "chosen"), *((row.name, _times(row), row.chosen) for row in self.rows)]


@dataclass
class _Seen:
    """A layer's first input, what that call was inside of, and the number of calls.

    Args:
        input: The first one.
        in_loop: Whether that came inside of `parametrize.cached`.
        with_graph: Whether gradients were wanted.
        autocast: What switches autocast on or off as it was.
        calls: How many.
    """

    input: Tensor
    in_loop: bool
    with_graph: bool
    autocast: AbstractContextManager[object]
    calls: int = 0

    @classmethod
    def now(cls, input: Tensor) -> Self:
        own = input.detach().requires_grad_(input.requires_grad)
        return cls(own, answered_from_cache() is not None, torch.is_grad_enabled(), _autocast(input.device.type))


def _autocast(kind: str) -> AbstractContextManager[object]:
    if kind not in AUTOCAST:
        return nullcontext()
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


def tune(model: nn.Module, *inputs: Any, **named: Any) -> Tuning:
    """Time every way in which each fused layer can multiply, and take the fastest from now on.

    Which way is fastest depends on the machine, the device, the batch and the dtype. What is built in holds on every
    machine and is careful; this measures, as ``torch.backends.cudnn.benchmark`` does for convolutions. The model is
    called once, as you would call it; then each of its layers runs on the input that it got, forward and backward,
    or forward alone under ``torch.no_grad()``; and under autocast, where you call it there, or the model its layer.
    A layer that is called in a loop inside `torch.nn.utils.parametrize.cached` is timed in such a loop. What is
    compiled is timed as it was written.

    Nothing else about the model changes: not its values, gradients, buffers or modes, nor torch's generators. What is
    taken is kept by the model and its copies, as ``product`` of their parametrizations, and by no checkpoint.

    Args:
        model: A model with fused layers; or one such layer.
        inputs: What the model is called with: of the batch size that it is used with.
        named: Likewise, by name.

    Returns:
        A row for each fused layer, which also prints as a table.

    Raises:
        TypeError: If it is no model.
        Exception: What the model raises when it is called; no layer is changed then.

    Example:
        >>> from parametrizations import MaskedSparse, masks, register
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        >>> _ = register(model, {"0.weight": MaskedSparse(masks.block_diagonal(8))})
        >>> rows = tune(model, torch.randn(32, 64)).rows
        >>> rows[0].name, sorted(rows[0].milliseconds)
        ('0.weight', ['csr', 'dense', 'strips'])
        >>> rows[0].chosen == explain(model[0]).product == min(rows[0].milliseconds, key=rows[0].milliseconds.get)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"tune needs a model. Got {type(model).__name__}. Pass a torch.nn.Module.")
    layers = _fused_layers(model)
    seen = _called(model, layers, inputs, named)
    times = {name: _timed(layer, seen[name]) if name in seen else {} for name, layer in layers.items()}
    _take({_first(layers[name]): min(ways, key=ways.__getitem__) for name, ways in times.items() if ways})
    return Tuning(tuple(Tuned(name, times[name], explain(layer).product) for name, layer in layers.items()))


def _fused_layers(model: nn.Module) -> dict[str, nn.Module]:
    """By the names of their weights, each layer once."""
    found: dict[nn.Module, str] = {}
    for place in (place for place, _ in constrained_places(model)):
        if place.tensor_name == "weight" and has_fused_forward(place.module):
            found.setdefault(place.module, place.name)
    return {name: layer for layer, name in found.items()}


def _called(model: nn.Module, layers: dict[str, nn.Module], inputs: Any, named: Any) -> dict[str, _Seen]:
    """What each layer gets when the model is called, on copies of its buffers; the rest is put back."""
    seen: dict[str, _Seen] = {}
    hooks = [layer.register_forward_pre_hook(_watch(name, seen), with_kwargs=True) for name, layer in layers.items()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)), uncompiled(), _own_gradients(model):
            functional_call(model, buffers, inputs, named)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@contextmanager
def _own_gradients(model: nn.Module) -> Iterator[None]:
    """Give parameters back the gradients that they have, of which backward passes inside of the block see nothing."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _watch(name: str, seen: dict[str, _Seen]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def watch(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if are_transforms_active():  # whose tensors mean nothing outside of them
            return
        given: Tensor | None = arguments[0] if arguments else named.get("input")
        if name not in seen and given is not None:  # without one the layer says so
            seen[name] = _Seen.now(given)
        if name in seen:
            seen[name].calls += 1

    return watch


def _timed(layer: nn.Module, seen: _Seen) -> dict[str, float]:
    """Milliseconds for each way that the layer can multiply in, where it was called."""
    with torch.set_grad_enabled(seen.with_graph), seen.autocast:
        ways = {name: _step(twin, seen) for name, twin in _twins(layer).items()}
        return _medians(ways, seen.input.device) if len(ways) > 1 else {}


def _medians(ways: Mapping[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    """Milliseconds for each step, the steps in turn.

    Each round has another order, since what ran before has left its memory in the cache.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        step()  # the first time allocates
    end, orders = time.perf_counter() + SECONDS, random.Random(0)
    while time.perf_counter() < end or len(taken[next(iter(ways))]) < ROUNDS:
        for name, step in orders.sample([*ways.items()], len(ways)):
            taken[name].append(_seconds(step, device))
    return {name: 1000 * statistics.median(times) for name, times in taken.items()}


def _twins(layer: nn.Module) -> dict[str, nn.Module]:
    """A copy of the layer for each way that it can multiply in; of what it holds, only its parametrizations are."""
    first = steps(chain_of(layer, "weight"))[0]
    products: tuple[Product, ...] = ("dense", *first.products) if isinstance(first, Parametrization) else ()
    twins = {way: _twin(layer, way) for way in products}
    return {way: twin for way, twin in twins.items() if explain(twin).product == way}


def _twin(layer: nn.Module, way: Product) -> nn.Module:
    memo: dict[int, Any] = {id(value): value for value in _attributes(layer)}
    memo |= {id(tensor): nn.Parameter(tensor.detach(), tensor.requires_grad) for tensor in layer.parameters()}
    memo |= {id(hooks): {} for part in layer.modules() for hooks in hooks_of(part)}
    twin = copy.deepcopy(layer, memo)
    _first(twin).product = way
    return twin


def _attributes(layer: nn.Module) -> list[object]:
    """What others have put on the layer, which may hold all of a model, or what cannot be copied."""
    own, parts = vars(nn.Module()), {id(part) for part in layer.modules()}
    return [value for name, value in vars(layer).items() if name not in own and id(value) not in parts]


def _first(layer: nn.Module) -> Parametrization:
    first = steps(chain_of(layer, "weight"))[0]
    assert isinstance(first, Parametrization)
    return first


def _step(layer: nn.Module, seen: _Seen) -> Callable[[], None]:
    """A forward pass past what others have put on the layer, or a loop of some; the backward pass if there is one."""
    forward: Any = type(layer).forward
    calls = min(seen.calls, CALLS) if seen.in_loop else 1
    leaves = [tensor for tensor in (seen.input, *layer.parameters()) if tensor.requires_grad]

    def step() -> None:
        block: AbstractContextManager[None] = parametrize.cached() if seen.in_loop else nullcontext()
        with block:
            outputs = [forward(layer, seen.input) for _ in range(calls)]
            if outputs[0].requires_grad:
                ones = [torch.ones_like(output) for output in outputs]
                torch.autograd.grad(outputs, leaves, ones, allow_unused=True)  # a layer may have further parameters
            forget()  # inside of another block this one would leave what it has built

    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _take(chosen: dict[Parametrization, str]) -> None:
    """All or nothing, since what a way needs is made here."""
    before = {parametrization: parametrization.product for parametrization in chosen}
    try:
        for parametrization, way in chosen.items():
            parametrization.product = way  # type: ignore[assignment]
    except BaseException:
        for parametrization, product in before.items():
            parametrization.product = product
        raise


def _times(row: Tuned) -> str:
    return ", ".join(f"{name} {time:.3g}" for name, time in row.milliseconds.items()) or "not timed"
