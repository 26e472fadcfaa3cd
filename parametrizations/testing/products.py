"""Laws about products: of `linear`, of fused layers, which call it, and of both under autocast, compilers and export.

Two ways to compute one product may differ by the forward error bound of a sum. The error of a computed sum of n
products is at most ``n * eps`` times the sum of their absolute values, in any order (Higham, *Accuracy and Stability of
Numerical Algorithms*, 2002, section 3.1). So the bound depends on the absolute values of the terms, not on the result:
in the result, the terms may cancel.
"""

from __future__ import annotations

import copy
import functools
import io
import itertools
from collections.abc import Callable
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
    require_raises,
    require_within,
)
from parametrizations.testing.subject import Subject, dense, gradient_of, matrix, outcome_of, parametrization_of, stored

PROBES = 4


def linear_is_the_dense_product(subject: Subject) -> None:
    """Up to rounding, ``linear`` is ``F.linear`` with the weight, in value and gradients, for every batch shape."""
    subject.skip_unless_matrix()
    parametrization = parametrization_of(layer := subject.layer())
    for batch, bias in itertools.product([(), (5,), (2, 3), (0,), (2, 0)], [layer.bias.detach(), None]):
        leaves = [subject.inputs(*batch), stored(layer).detach(), *([] if bias is None else [bias])]
        got = outcome_of(lambda i, x, b=None: parametrization.linear(i, x, b), leaves)
        expected = outcome_of(lambda i, x, b=None: F.linear(i, parametrization(x), b), leaves)
        allowed = _rounding_of(parametrization, leaves[0], leaves[1], bias)
        for one, other, bound in zip(got, expected, allowed, strict=True):
            require_within(one, other, bound, f"For inputs of shape {(*batch, 'in')}, linear's output or its gradient")


def linear_works_under_vmap(subject: Subject) -> None:
    """Under `torch.func.vmap` over inputs, stored tensors or both, ``linear`` is the dense product."""
    subject.skip_unless_matrix()
    parametrization = parametrization_of(layer := subject.layer())
    x, inputs = stored(layer).detach(), subject.inputs(2, 3)
    stack = torch.stack([x, x / 2])
    for dims in ((0, None), (None, 0), (0, 0)):
        arguments = (inputs if dims[0] == 0 else inputs[0], stack if dims[1] == 0 else x)
        got = vmap(lambda i, x: parametrization.linear(i, x, layer.bias), dims)(*arguments)
        expected = vmap(lambda i, x: F.linear(i, parametrization(x), layer.bias), dims)(*arguments)
        pairs = [(inputs[i * (dims[0] == 0)], stack[i * (dims[1] == 0)]) for i in range(2)]
        bound = torch.stack([_rounding_of(parametrization, i, x, layer.bias)[0] for i, x in pairs])
        require_within(got, expected, bound, f"Under vmap over {dims}, linear")


def linear_refuses_what_a_layer_refuses(subject: Subject) -> None:
    """An input of another width or dtype raises a RuntimeError, as in an `nn.Linear`."""
    subject.skip_unless_matrix()
    layer, inputs = subject.layer(), subject.inputs(3)
    other = torch.float32 if inputs.dtype is not torch.float32 else torch.float64
    wrong = {
        "wider inputs": torch.cat([inputs, inputs], 1),
        "inputs of width 0": inputs[:, :0],
        "another dtype": inputs.real.to(other),
        "a number": inputs[0, 0],
    }
    for what, value in wrong.items():
        linear = functools.partial(parametrization_of(layer).linear, value, stored(layer), layer.bias)
        require_raises(linear, f"linear with {what}", RuntimeError)


def fused_layers_are_the_layers(subject: Subject) -> None:
    """Fusing a layer changes neither its weight nor, up to rounding, its output and gradient."""
    layer, inputs = subject.layer(), subject.inputs(3)
    fused: Any = fuse(copy.deepcopy(layer))
    _require_same(fused, layer, inputs, "fused")
    require_equal(dense(fused), dense(layer), "The fused layer's weight")


def autocast_works(subject: Subject) -> None:
    """Under bfloat16 autocast, a layer, fused or not, has the output of a plain layer. Its weight stays float32."""
    if subject.weight.dtype is not torch.float32:
        raise Skipped("autocast is for float32 layers")
    layer, inputs = subject.layer(), subject.inputs(3)
    for one in (layer, fuse(copy.deepcopy(layer))):
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            got, expected, weight = one(inputs), subject.plain(dense(layer))(inputs), one.weight
        require(weight.dtype == torch.float32, f"The weight under autocast is {weight.dtype}.")
        require_close(got, expected, "The output under autocast")


def compiles(subject: Subject) -> None:
    """Before and after `fuse`, a layer compiles forward and backward without graph breaks, for several batch sizes."""
    layer = subject.layer()
    for one in (layer, fuse(copy.deepcopy(layer))):
        torch.compiler.reset()
        compiled = torch.compile(one, fullgraph=True, backend="aot_eager")
        for batch in (3, 5, 7):
            _require_same(compiled, layer, subject.inputs(batch), "compiled")


def exports(subject: Subject) -> None:
    """Exported or traced, a layer, fused or not, has the same output, and needs no operator of this library."""
    layer, inputs = subject.layer(), subject.inputs(3)
    allowed = _allowed(layer, inputs)[0]
    for one in (layer, fuse(copy.deepcopy(layer))):
        for strict in (False, True):
            torch.compiler.reset()
            program = torch.export.export(one, (inputs,), strict=strict)
            calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
            foreign = [name for name in calls if "parametrizations" in name]
            require(not foreign, f"The exported program calls {foreign}.")
            require_within(program.module()(inputs), layer(inputs), allowed, "The exported program's output")
        traced: Any = torch.jit.trace(one, inputs)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, io.BytesIO())
        require_within(traced(inputs), layer(inputs), allowed, "The traced output")


def stored_entries_are_at_their_places(subject: Subject) -> None:
    """``places`` is None, or has the positions of the stored entries in the weight, and names the diagonal ones."""
    subject.skip_unless_matrix()
    parametrization = parametrization_of(layer := subject.layer())
    x = stored(layer).detach()
    places = parametrization.places(x)
    if places is None:
        return
    require_equal(_put(x, places), parametrization(x), "The weight with the stored entries at their places")
    height = max(places.shape[0] // places.blocks, 1)
    on_diagonal = (places.rows % height == places.columns).nonzero().flatten()
    named = torch.arange(x.numel(), device=x.device) if places.diagonal is None else places.diagonal
    require(named.tolist() == on_diagonal.tolist(), "places(x).diagonal names other entries than the diagonal ones.")
    whole = on_diagonal.numel() == places.blocks * min(height, places.shape[1])
    require(places.has_whole_diagonal == whole, "places(x).has_whole_diagonal is wrong.")


def steps_on_entries_are_the_steps(subject: Subject) -> None:
    """``on_entries`` and ``invert_entries`` give None, or agree with ``forward`` and ``invert(project(...))``."""
    subject.skip_unless_matrix()
    parametrization = parametrization_of(subject.layer())
    for what, mask in _patterns(subject.weight).items():
        x, places = subject.weight.detach()[mask], _places_of(mask)
        changed = [parametrization.on_entries(entries, places) for entries in (x, 2 * x + 1)]
        require((changed[0] is None) == (changed[1] is None), f"For {what}, on_entries returns None for some x only.")
        if changed[0] is None:
            continue
        outside = parametrization(_put(x, places))[~mask]
        require(not bool(outside.any()), f"For {what}, forward gives entries that on_entries leaves out.")
        got = outcome_of(lambda x: parametrization.on_entries(x, places), [x])  # noqa: B023
        expected = outcome_of(lambda x: parametrization(_put(x, places))[mask], [x])  # noqa: B023
        require_close(got[0], expected[0], f"For {what}, the result of on_entries")
        require_close(got[1], expected[1], f"For {what}, the gradient of on_entries")
        inverted = parametrization.invert_entries(x, places)
        if inverted is not None:
            whole = parametrization.invert(parametrization.project(_put(x, places)))
            require_equal(inverted, whole[mask], f"For {what}, the result of invert_entries")


def _patterns(weight: Tensor) -> dict[str, Tensor]:
    """Masks with and without the whole diagonal, by description."""
    rows, columns = (torch.arange(size, device=weight.device) for size in weight.shape)
    diagonal = rows[:, None] == columns
    scattered = (3 * rows[:, None] + columns) % 4 == 1
    return {
        "the diagonal": diagonal,
        "a lower triangle": rows[:, None] >= columns,
        "scattered entries and the diagonal": scattered | diagonal,
        "scattered entries": scattered & (columns > 0),
        "all but the diagonal": ~diagonal,
    }


def _places_of(mask: Tensor) -> Places:
    positions = mask.flatten().nonzero().flatten()
    diagonal = torch.eye(*mask.shape, dtype=torch.bool, device=mask.device)
    which = None if torch.equal(mask, diagonal) else diagonal[mask].nonzero().flatten()
    return Places(mask.shape, which, lambda: positions)


def _put(x: Tensor, places: Places) -> Tensor:
    """The weight with the entries ``x`` at ``places``, and zeros elsewhere."""
    return x.new_zeros(places.shape.numel()).scatter(0, places.positions().long(), x).view(places.shape)


def _require_same(other: Any, layer: Any, inputs: Tensor, what: str) -> None:
    """Require the output and the gradient of ``other`` to be those of ``layer``, up to rounding."""
    of_output, _, of_x, _ = _allowed(layer, inputs)
    require_within(other(inputs), layer(inputs), of_output, f"The {what} output")
    require_within(gradient_of(other, inputs), gradient_of(layer, inputs), of_x, f"The {what} gradient")


def _allowed(layer: Any, inputs: Tensor) -> list[Tensor]:
    def weight(x: Tensor) -> Tensor:
        return matrix(functools.reduce(lambda x, step: step(x), layer.parametrizations.weight, x))

    return _rounding_of(weight, inputs, stored(layer), layer.bias)


def _rounding_of(weight: Callable[[Tensor], Tensor], input: Tensor, x: Tensor, bias: Tensor | None) -> list[Tensor]:
    """The rounding allowed between two computations of ``F.linear(input, weight(x), bias)``.

    Returns:
        A bound for each entry of the result of `outcome_of`: the output, and the gradients of input, ``x`` and bias.
    """
    sizes = [tensor.detach().abs().double() for tensor in (input, weight(x), bias) if tensor is not None]
    output, of_input, of_weight, *of_bias = outcome_of(F.linear, sizes)
    terms = sum(of_weight.shape) + of_input.shape[:-1].numel()
    # Products in half precision are added in float32, and rounded a few times on the way from output to gradient.
    eps = torch.finfo(x.dtype).eps
    relative = 4 * eps + terms * min(eps, torch.finfo(torch.float32).eps) * (2 if x.is_complex() else 1)
    return [relative * size for size in (output, of_input, _through(weight, x, of_weight), *of_bias)]


def _through(weight: Callable[[Tensor], Tensor], x: Tensor, of_weight: Tensor) -> Tensor:
    """Backpropagate ``of_weight``, sizes of the weight's gradient, to ``x``: the root mean square over random signs.

    The result is exact if an entry of ``x`` acts on one entry of the weight. If an entry acts on several, its terms do
    not cancel, because of the random signs.
    """
    x, largest = x.detach().clone().requires_grad_(), of_weight.max() if of_weight.numel() else of_weight.sum()
    generator, total = torch.Generator().manual_seed(0), torch.zeros_like(x.detach().abs().double())
    for _ in range(PROBES):
        signs = torch.randint(0, 2, of_weight.shape, generator=generator, device="cpu").to(of_weight) * 2 - 1
        probe = (signs * of_weight / largest.clamp(min=1)).to(x)
        (reached,) = torch.autograd.grad(weight(x), x, probe)
        total += reached.abs().double().square() / PROBES
    return total.sqrt() * largest.clamp(min=1)
