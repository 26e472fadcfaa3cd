"""`tune`: measure the products of each constrained layer, and select the fastest."""

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

from parametrizations._models.constrained import constrained
from parametrizations._models.fuse import explain
from parametrizations._models.layer import has_fused_forward
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
"""Smallest number of times for each product."""
SECONDS = 0.3
"""Time for all products of one layer together, if `ROUNDS` takes less."""
CALLS = 16
"""Largest number of steps of a loop over time that are timed."""


class Tuned(NamedTuple):
    """One fused layer: the name of its weight, the median milliseconds of each product, and the selected product.

    ``milliseconds`` is empty if the model did not call the layer, or called it only in a transform of `torch.func`, or
    if the layer has only one product.
    """

    name: str
    milliseconds: Mapping[str, float]
    chosen: str


@dataclass(frozen=True)
class Tuning:
    """Rows, printed as a table in terminals and notebooks."""

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
    """The first input of a layer, the context of this call, and the number of calls.

    Args:
        input: The first input.
        in_loop: Whether the call was inside `parametrize.cached`.
        with_graph: Whether gradients were enabled.
        autocast: A context with the same autocast state.
        calls: The number of calls.
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
    """Measure every product of each fused layer, and select the fastest.

    The fastest product depends on the machine, the device, the batch and the dtype. The default ``"auto"`` uses fixed
    costs, measured once; `tune` measures, as ``torch.backends.cudnn.benchmark`` does for convolutions. It calls the
    model once with your inputs. Then it times each layer on the first input that the layer got: forward and backward,
    or only forward under ``torch.no_grad()``, with the autocast state of that call. A layer called inside
    `torch.nn.utils.parametrize.cached` is timed in such a loop. Compiled layers are timed without the compiler.

    The model is otherwise unchanged: its values, gradients, buffers, modes, and the generators of torch. The selected
    product is the ``product`` of the parametrization, in the model and its copies. Checkpoints do not contain it.

    Args:
        model: A model with fused layers, or a fused layer.
        inputs: The inputs of the model, with the usual batch size.
        named: Inputs by name.

    Returns:
        A row for each fused layer, printed as a table.

    Raises:
        TypeError: If ``model`` is not a module.
        Exception: Any error that the model raises. No layer is then changed.

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
    """The fused layers by the names of their weights, each layer once."""
    found: dict[nn.Module, str] = {}
    for slot in constrained(model):
        if slot.tensor_name == "weight" and has_fused_forward(slot.module):
            found.setdefault(slot.module, slot.name)
    return {name: layer for layer, name in found.items()}


def _called(model: nn.Module, layers: dict[str, nn.Module], inputs: Any, named: Any) -> dict[str, _Seen]:
    """The input of each layer in a call of the model with copies of its buffers. The model is left unchanged."""
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
    """Hide the gradients of the parameters from backward passes inside the block, and restore them at the end."""
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
        if are_transforms_active():  # tensors of a transform are invalid outside it
            return
        given: Tensor | None = arguments[0] if arguments else named.get("input")
        if name not in seen and given is not None:  # without an input the layer itself raises
            seen[name] = _Seen.now(given)
        if name in seen:
            seen[name].calls += 1

    return watch


def _timed(layer: nn.Module, seen: _Seen) -> dict[str, float]:
    """Milliseconds of each product of the layer, in the context of its call."""
    with torch.set_grad_enabled(seen.with_graph), seen.autocast:
        ways = {name: _step(twin, seen) for name, twin in _twins(layer).items()}
        return _medians(ways, seen.input.device) if len(ways) > 1 else {}


def _medians(ways: Mapping[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    """Milliseconds for each step, the steps in turn.

    The order is random in each round, since each step leaves its data in the CPU cache.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        step()  # warm-up, which allocates
    end, orders = time.perf_counter() + SECONDS, random.Random(0)
    while time.perf_counter() < end or len(taken[next(iter(ways))]) < ROUNDS:
        for name, step in orders.sample([*ways.items()], len(ways)):
            taken[name].append(_seconds(step, device))
    return {name: 1000 * statistics.median(times) for name, times in taken.items()}


def _twins(layer: nn.Module) -> dict[str, nn.Module]:
    """A copy of the layer for each of its products. The copies share all attributes but the parametrizations."""
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
    """Third-party attributes of the layer, which may refer to the whole model, or to objects without a copy."""
    own, parts = vars(nn.Module()), {id(part) for part in layer.modules()}
    return [value for name, value in vars(layer).items() if name not in own and id(value) not in parts]


def _first(layer: nn.Module) -> Parametrization:
    first = steps(chain_of(layer, "weight"))[0]
    assert isinstance(first, Parametrization)
    return first


def _step(layer: nn.Module, seen: _Seen) -> Callable[[], None]:
    """A forward pass without third-party hooks, or a loop of several; and the backward pass if gradients are needed."""
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
            forget()  # inside another block, memoised results would remain

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
    """Set all products, or none on an error: setting a product makes its form, which can fail."""
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
