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
from parametrizations._products.places import Places
from parametrizations.testing.requirements import (
    Skipped,
    require,
    require_close,
    require_equal,
    require_raises_runtime_error,
    require_within,
)
from parametrizations.testing.rounding import rounding_of
from parametrizations.testing.subject import (
    Subject,
    dense,
    gradient_of,
    outcome_of,
    parametrization_of,
    stored,
    weight_of,
)


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


def stored_entries_are_at_their_places(subject: Subject) -> None:
    """``places`` is None, or says truly where ``forward`` puts what is stored, and what of it is the diagonal."""
    parametrization = parametrization_of(layer := subject.layer())
    x = stored(layer).detach()
    places = parametrization.places(x)
    if places is None:
        return
    require_equal(_put(x, places), parametrization(x), "What is stored, put at the places that it is said to have,")
    on_diagonal = (places.rows == places.columns).nonzero().flatten()
    named = torch.arange(x.numel(), device=x.device) if places.diagonal is None else places.diagonal
    require(named.tolist() == on_diagonal.tolist(), "The entries that are said to be the diagonal's are others.")
    whole = on_diagonal.numel() == min(places.shape)
    require(places.has_whole_diagonal == whole, "Whether the whole diagonal is stored is said wrongly.")


def steps_on_entries_are_the_steps(subject: Subject) -> None:
    """``on_entries`` is None, or gives what ``forward`` makes of a weight that is 0 elsewhere, and its gradient."""
    parametrization = parametrization_of(subject.layer())
    for what, mask in _patterns(subject.weight).items():
        x, places = subject.weight.detach()[mask], _places_of(mask)
        changed = [parametrization.on_entries(entries, places) for entries in (x, 2 * x + 1)]
        require((changed[0] is None) == (changed[1] is None), f"For {what}, on_entries answers by the values.")
        if changed[0] is None:
            continue
        outside = parametrization(_put(x, places))[~mask]
        require(not bool(outside.any()), f"For {what}, forward makes entries that on_entries leaves out.")
        got = outcome_of(lambda x: parametrization.on_entries(x, places), [x])  # noqa: B023
        expected = outcome_of(lambda x: parametrization(_put(x, places))[mask], [x])  # noqa: B023
        require_close(got[0], expected[0], f"For {what}, what on_entries gives")
        require_close(got[1], expected[1], f"For {what}, the gradient of on_entries")


def _patterns(weight: Tensor) -> dict[str, Tensor]:
    """Which entries a weight may store: with the whole diagonal, and without."""
    rows, columns = (torch.arange(size, device=weight.device) for size in weight.shape)
    diagonal = rows[:, None] == columns
    scattered = (3 * rows[:, None] + columns) % 4 == 1
    return {
        "the diagonal": diagonal,
        "a lower triangle": rows[:, None] >= columns,
        "scattered entries and the diagonal": scattered | diagonal,
        "scattered entries": scattered & (columns > 0),
        "what is beside the diagonal": ~diagonal,
    }


def _places_of(mask: Tensor) -> Places:
    positions = mask.flatten().nonzero().flatten()
    diagonal = torch.eye(*mask.shape, dtype=torch.bool, device=mask.device)
    which = None if torch.equal(mask, diagonal) else diagonal[mask].nonzero().flatten()
    return Places(mask.shape, which, lambda: positions)


def _put(x: Tensor, places: Places) -> Tensor:
    """The weight with these entries, 0 elsewhere."""
    return x.new_zeros(places.shape.numel()).scatter(0, places.positions().long(), x).view(places.shape)


def _allowed(layer: Any, inputs: Tensor) -> list[Tensor]:
    return rounding_of(weight_of(layer), inputs, stored(layer), layer.bias)


def _require_same(layer: Any, inputs: Tensor, other: Any, call: Callable[[Tensor], Tensor], what: str) -> None:
    """The output and the gradient of another layer, by its call, are the layer's up to rounding."""
    of_output, _, of_x, _ = _allowed(layer, inputs)
    require_within(call(inputs), layer(inputs), of_output, f"The {what} output")
    require_within(gradient_of(other, inputs, call), gradient_of(layer, inputs), of_x, f"The {what} gradient")
