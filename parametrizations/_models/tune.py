"""`tune`: measure the products of each constrained layer, and select the fastest."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from parametrizations._models.fuse import explain
from parametrizations._models.layer import fused_holders
from parametrizations._models.matching import constrained_by
from parametrizations._models.sizes import require_present
from parametrizations._models.summary import Table
from parametrizations._products.dense import fits
from parametrizations._products.operands import AUTOCAST
from parametrizations._torch.chains import chains
from parametrizations._torch.loops import forget
from parametrizations._torch.private import answered_from_cache, are_transforms_active, buffers, hooks_of, parameters
from parametrizations._torch.transforms import uncompiled
from parametrizations.parametrization import Parametrization

ROUNDS = 5  # the least number of measurements for each product
SECONDS = 0.3  # the least time for all products of one layer together
CALLS = 16  # the largest number of calls of a layer in one timed loop


class Tuned(NamedTuple):
    """A row of `tune`: the ``name`` of a weight, the median ``milliseconds`` of each product, and the ``chosen`` one.

    ``milliseconds`` is empty if the layer has a single product, or was not called, or called only in `torch.func`.
    """

    name: str
    milliseconds: Mapping[str, float]
    chosen: str


@dataclass(frozen=True, repr=False)
class Tuning(Table):
    """The ``rows`` of `tune`, printed as a table in terminals and notebooks."""

    head = Tuned._fields
    empty = "No layer takes the product of a constraint. Constrain some: register(model, {name: constraint})."
    rows: tuple[Tuned, ...]


def tune(model: nn.Module, *inputs: Any, **named: Any) -> Tuning:
    """Measure every product of each fused layer, and select the fastest.

    The default ``"auto"`` assumes fixed costs, but the fastest product depends on the machine, the batch and the dtype.
    `tune` calls the model once, and notes the first input of each layer. Then it times each layer alone on this input,
    without hooks: the forward and the backward pass, or only the forward pass if the model called the layer under
    ``torch.no_grad()``. Each layer has the autocast state of this call. If the model called the layer inside
    `torch.nn.utils.parametrize.cached`, several calls in one such block are timed together. Compiled layers are timed
    without the compiler.

    The selected product becomes the ``product`` of the constraint. Later copies keep it; checkpoints do not. All else
    is unchanged: values, gradients, buffers, training or evaluation mode, and torch's random generators.

    Args:
        model: A model with fused layers, or a fused layer.
        inputs: The inputs of the model, with the usual batch size.
        named: Inputs by name.

    Returns:
        A `Tuning` with a row for each fused layer, printed as a table.

    Raises:
        TypeError: If ``model`` is not a module.
        Exception: Any error that the model raises. No layer is then changed.

    Example:
        >>> from parametrizations import MaskedSparse, masks, register
        >>> model = register(nn.Sequential(nn.Linear(64, 64)), {"0.weight": MaskedSparse(masks.block_diagonal(8))})
        >>> rows = tune(model, torch.randn(32, 64)).rows
        >>> rows[0].name, sorted(rows[0].milliseconds)
        ('0.weight', ['csr', 'dense', 'strips'])
        >>> rows[0].chosen == explain(model[0]).product == min(rows[0].milliseconds, key=rows[0].milliseconds.get)
        True
    """
    weights = [slot for slot in constrained_by("tune", model) if fused_holders(slot)]
    require_present(weights, "tune", model)
    layers = {slot.name: fused_holders(slot)[0] for slot in weights}
    with torch.random.fork_rng({tensor.device for tensor in model.parameters() if tensor.is_cuda}), uncompiled():
        calls = _calls(model, layers, inputs, named)
        timed = {name: _timed(layer, calls[name]) if name in calls else ({}, {}) for name, layer in layers.items()}
    for name, (_, fastest) in timed.items():
        vars(chains(layers[name])["weight"][0]).update(fastest)
    return Tuning(tuple(Tuned(name, times, explain(layers[name]).product) for name, (times, _) in timed.items()))


@dataclass
class _Call:
    """The input of a layer's first call, its context (cache, grad mode, autocast), and the number of calls."""

    input: Tensor
    is_cached: bool
    with_graph: bool
    autocast: torch.autocast
    count: int = 0


def _calls(model: nn.Module, layers: dict[str, nn.Module], inputs: Any, named: Any) -> dict[str, _Call]:
    """Call the model once, and return a `_Call` by layer name. Buffers and gradients are restored afterwards."""
    calls: dict[str, _Call] = {}
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(layer.register_forward_pre_hook(partial(_record, calls, name), with_kwargs=True))
        for parameter in model.parameters():
            stack.callback(setattr, parameter, "grad", parameter.grad)
            parameter.grad = None
        copies: dict[int, Tensor] = {}
        for module in model.modules():
            store = buffers(module)
            stack.callback(store.update, dict(store))
            store.update({name: copies.setdefault(id(x), x.clone()) for name, x in store.items() if x is not None})
        try:
            model(*inputs, **named)
        except TypeError as error:
            if inputs or named:
                raise
            raise TypeError(
                f"tune needs the inputs of the model. Got none (the model raised: {error}). Pass a batch of the "
                "usual size: tune(model, batch)."
            ) from error
    return calls


def _record(calls: dict[str, _Call], name: str, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    x: Tensor | None = inputs[0] if inputs else named.get("input")
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(
            f"tune needs the inputs of the model, as one call takes them. Got {type(x).__name__} as the input of "
            f"{name!r}. Pass tune(model, batch); for several inputs tune(model, *inputs)."
        )
    if x is None or are_transforms_active():  # without x the layer raises; a transform's tensors are invalid outside it
        return
    if name not in calls:
        kind = x.device.type if x.device.type in AUTOCAST else "cpu"  # autocast rejects the meta device
        autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        own = x.detach().requires_grad_(x.requires_grad)
        calls[name] = _Call(own, answered_from_cache() is not None, torch.is_grad_enabled(), autocast)
    calls[name].count += 1


def _timed(layer: nn.Module, call: _Call) -> tuple[dict[str, float], dict[str, Any]]:
    """Milliseconds by product, and the attributes with which the first parametrization uses the fastest product."""
    first: Any = chains(layer)["weight"][0]
    with torch.set_grad_enabled(call.with_graph), call.autocast, _stand_ins(layer):
        states: dict[str, dict[str, Any]] = {}
        present = explain(layer).product
        for product in ("dense", *first.products) if isinstance(first, Parametrization) else ():
            dense = product in ("dense", "strips") and product != present  # strips may cover nearly the whole weight
            if dense and not fits(first._known_shape.numel(), call.input):
                continue
            first.product = product  # may rearrange the mask, which is slow: once per product, not per timed step
            if explain(layer).product == product:
                states[product] = dict(vars(first))
        leaves = [x for x in (call.input, *layer.parameters()) if x.requires_grad]  # a product may not use every leaf
        ways = {name: partial(_step, layer, vars(first), state, call, leaves) for name, state in states.items()}
        times = _medians(ways, call.input.device) if len(ways) > 1 else {}
    return times, states[min(times, key=times.__getitem__)] if times else {}


@contextmanager
def _stand_ins(layer: nn.Module) -> Iterator[None]:
    """Remove hooks and replace tensors by detached ones inside the block. Restore all attributes at the end."""
    # A ScriptModule is left out: its tensors are in C++.
    parts = [part for part in layer.modules() if not isinstance(part, torch.jit.ScriptModule)]
    held = [own for part in parts for own in (vars(part), parameters(part), buffers(part), *hooks_of(part))]
    before = [dict(own) for own in held]
    try:
        for part in parts:
            free, fixed = parameters(part), buffers(part)
            free.update({name: nn.Parameter(x.detach(), x.requires_grad) for name, x in free.items() if x is not None})
            fixed.update({name: x.detach().clone() for name, x in fixed.items() if x is not None})
            for hooks in hooks_of(part):
                hooks.clear()
        yield
    finally:
        for own, attributes in zip(held, before, strict=True):
            own.clear()
            own.update(attributes)
        forget()  # inside an outer `cached()`, results of the detached tensors would remain


def _step(layer: nn.Module, first: dict[str, Any], state: dict[str, Any], call: _Call, leaves: list[Tensor]) -> None:
    """One forward pass, or all calls (at most `CALLS`) of a layer in ``cached()``; then a backward pass if needed."""
    first.update(state)
    with nn.utils.parametrize.cached() if call.is_cached else nullcontext():
        forget()  # the results memoised in an outer `cached()` block
        calls = min(call.count, CALLS) if call.is_cached else 1
        outputs = [type(layer).forward(layer, call.input) for _ in range(calls)]
        if outputs[0].requires_grad:
            torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs], allow_unused=True)


def _medians(ways: Mapping[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    """Median milliseconds of a step with each product, timed in random order.

    In a fixed order, a step would always find the data of the same other step in the CPU cache.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        step()  # warm-up, which allocates
    end, orders = time.perf_counter() + SECONDS, random.Random(0)
    while time.perf_counter() < end or len(taken[next(iter(ways))]) < ROUNDS:
        for name, step in orders.sample([*ways.items()], len(ways)):
            taken[name].append(_seconds(step, device))
    return {name: 1000 * statistics.median(times) for name, times in taken.items()}


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    wait = torch.cpu.synchronize if device.type == "cpu" else torch.accelerator.synchronize
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - start
