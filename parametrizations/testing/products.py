"""Laws about `linear`, which multiplies without the weight, and about fused layers, which use it."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from parametrizations._models.fuse import fuse
from parametrizations.testing.requirements import (
    Skipped,
    require,
    require_close,
    require_equal,
    require_raises_runtime_error,
    require_within,
)
from parametrizations.testing.rounding import rounding_of
from parametrizations.testing.subject import Subject, dense, gradient_of, outcome_of, parametrization_of, stored


def linear_is_the_dense_product(subject: Subject) -> None:
    """``linear`` equals ``F.linear`` with the weight, in value and every gradient, for every input shape."""
    parametrization = parametrization_of(layer := subject.layer())
    for batch, bias in itertools.product([(), (5,), (2, 3), (0,), (2, 0)], [layer.bias.detach(), None]):
        leaves = [subject.inputs(*batch), stored(layer).detach(), *([] if bias is None else [bias])]
        got = outcome_of(lambda i, x, b=None: parametrization.linear(i, x, b), leaves)
        expected = outcome_of(lambda i, x, b=None: F.linear(i, parametrization(x), b), leaves)
        allowed = rounding_of(parametrization, leaves[0], leaves[1], bias)
        for one, other, bound in zip(got, expected, allowed, strict=True):
            require_within(one, other, bound, f"For inputs of shape {(*batch, 'in')}, linear's output or its gradient")


def linear_works_under_vmap(subject: Subject) -> None:
    """Under `torch.func.vmap` over inputs, stored tensors or both, ``linear`` is the dense product."""
    parametrization = parametrization_of(layer := subject.layer())
    x, inputs = stored(layer).detach(), subject.inputs(2, 3)
    stack = torch.stack([x, x / 2])
    for dims in ((0, None), (None, 0), (0, 0)):
        arguments = (inputs if dims[0] == 0 else inputs[0], stack if dims[1] == 0 else x)
        got = vmap(lambda i, x: parametrization.linear(i, x, layer.bias), dims)(*arguments)
        expected = vmap(lambda i, x: F.linear(i, parametrization(x), layer.bias), dims)(*arguments)
        pairs = [(inputs[i * (dims[0] == 0)], stack[i * (dims[1] == 0)]) for i in range(2)]
        bound = torch.stack([rounding_of(parametrization, i, x, layer.bias)[0] for i, x in pairs])
        require_within(got, expected, bound, f"Under vmap over {dims}, linear")


def linear_refuses_what_a_layer_refuses(subject: Subject) -> None:
    """An input of another width or dtype raises the RuntimeError that it raises in an `nn.Linear`."""
    layer = subject.layer()
    inputs = subject.inputs(3)
    other = torch.float32 if inputs.dtype is not torch.float32 else torch.float64
    wrong = {
        "wider inputs": torch.cat([inputs, inputs], 1),
        "inputs of width 0": inputs[:, :0],
        "another dtype": inputs.to(torch.complex128 if inputs.is_complex() else other),
        "a number": inputs[0, 0],
    }
    if inputs.dtype is torch.complex128:
        del wrong["another dtype"]
    for what, value in wrong.items():
        linear = partial(parametrization_of(layer).linear, value, stored(layer), layer.bias)
        require_raises_runtime_error(linear, f"linear with {what}")


def fused_layers_are_the_layers(subject: Subject) -> None:
    """A fused layer has the output, the gradient and the weight of the same layer not fused."""
    layer, inputs = subject.layer(), subject.inputs(3)
    fused: Any = fuse(copy.deepcopy(layer))
    _require_same(layer, inputs, fused, fused, "fused")
    require_equal(dense(fused), dense(layer), "The fused layer's weight")


def fused_layers_autocast(subject: Subject) -> None:
    """Under bfloat16 autocast a fused layer's output has the dtype and value of the dense one."""
    if subject.weight.dtype is not torch.float32:
        raise Skipped("autocast is for float32 layers")
    layer, inputs = subject.layer(), subject.inputs(3)
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        got, expected = fuse(copy.deepcopy(layer))(inputs), layer(inputs)
    require(got.dtype == expected.dtype, f"The output is {got.dtype} instead of {expected.dtype}.")
    require_close(got, expected, "The fused output under autocast")


def fused_layers_compile(subject: Subject) -> None:
    """A fused layer compiles whole, forward and backward, for every size of the batch."""
    layer = subject.layer()
    fused: Any = fuse(copy.deepcopy(layer))
    torch.compiler.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for batch in (3, 5, 7):
        inputs = subject.inputs(batch)
        _require_same(layer, inputs, fused, compiled, "compiled")


def fused_layers_export(subject: Subject) -> None:
    """Exported or traced, a fused layer has the same output, and no operator of this library in the file."""
    layer, inputs, file = subject.layer(), subject.inputs(3), io.BytesIO()
    fused: Any = fuse(copy.deepcopy(layer))
    allowed = _allowed(layer, inputs)[0]
    for strict in (False, True):
        torch.compiler.reset()
        program = torch.export.export(fused, (inputs,), strict=strict)
        foreign = [str(node.target) for node in program.graph.nodes if "parametrizations" in str(node.target)]
        calls = [name for name in foreign if not name.startswith(("p_", "b_", "c_"))]
        require(not any("." in name for name in calls), f"The exported program calls {calls}.")
        run: Callable[[Tensor], Tensor] = program.module()
        require_within(run(inputs), layer(inputs), allowed, "The exported program's output")
    traced: Any = torch.jit.trace(fused, inputs)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, file)
    require_within(traced(inputs), layer(inputs), allowed, "The traced output")


def _allowed(layer: Any, inputs: Tensor) -> list[Tensor]:
    return rounding_of(parametrization_of(layer), inputs, stored(layer), layer.bias)


def _require_same(layer: Any, inputs: Tensor, other: Any, call: Callable[[Tensor], Tensor], what: str) -> None:
    """The output and the gradient of another layer, by its call, are the layer's up to rounding."""
    of_output, _, of_x, _ = _allowed(layer, inputs)
    require_within(call(inputs), layer(inputs), of_output, f"The {what} output")
    require_within(gradient_of(other, inputs, call), gradient_of(layer, inputs), of_x, f"The {what} gradient")
