"""The promises of the contract as laws: each a function that fails on a parametrization that breaks it.

`parametrizations.testing.check_parametrization` runs them all. A law is shown a `Subject`, raises `Broken`
with figures or any error of the code it calls, and raises `Skipped` where it does not apply.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from parametrizations.fusion import fuse

__all__ = ["LAWS", "Broken", "Law", "Skipped", "Subject", "law"]

Law = Callable[["Subject"], None]
LAWS: dict[str, Law] = {}
STORED = "parametrizations.weight.original"


class Broken(AssertionError):
    """A promise does not hold; the message has the figures."""


class Skipped(Exception):
    """A law that does not apply here; the message says why."""


@dataclass(frozen=True)
class Subject:
    """What the laws look at: an unregistered parametrization, and a weight, ``(out, in)``, to start from."""

    parametrization: nn.Module
    weight: Tensor

    def fresh(self) -> Any:
        """A parametrization of its own, not registered."""
        return copy.deepcopy(self.parametrization)

    def plain(self, weight: Tensor | None = None) -> nn.Linear:
        """An unconstrained layer with the weight, and a bias of small different numbers."""
        weight = self.weight if weight is None else weight
        layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta", dtype=weight.dtype)
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.bias = nn.Parameter(torch.arange(weight.shape[0], device=weight.device).to(weight) / 8)
        return layer

    def layer(self, weight: Tensor | None = None) -> Any:
        """A layer whose weight has the parametrization registered."""
        return register_parametrization(self.plain(weight), "weight", self.fresh())

    def member(self) -> Tensor:
        """A weight in the set, other than the one that registering gives."""
        layer = self.layer()
        set_stored(layer, stored(layer) / 2)
        return dense(layer)

    def outsider(self) -> Tensor:
        """A weight outside the set; skips the law where none is found."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(self.weight.shape, generator=generator, dtype=torch.float64).to(self.weight)
        contains = parametrization_of(self.layer()).contains
        for candidate in (self.weight.detach().clone(), drawn, -drawn, drawn + 1):
            if not contains(candidate):
                return candidate
        raise Skipped("no weight outside the set was found")

    def inputs(self, *batch: int) -> Tensor:
        """Inputs ``(*batch, in)`` in the weight's dtype."""
        generator = torch.Generator().manual_seed(1)
        shape = (*batch, self.weight.shape[1])
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.weight)


def law(function: Law) -> Law:
    """Add a law under its function's name."""
    LAWS[function.__name__] = function
    return function


def require(holds: bool, message: str) -> None:
    if not holds:
        raise Broken(message)


def require_equal(got: Tensor, expected: Tensor, what: str) -> None:
    """Bit for bit equality, NaN included."""
    same = got.shape == expected.shape and bool(((got == expected) | (got.isnan() & expected.isnan())).all())
    require(same, f"{what} {_difference(got, expected)}")


def require_close(got: Tensor, expected: Tensor, what: str) -> None:
    """Equality up to the rounding that `torch.testing.assert_close` grants the dtype.

    In half precision an entry may be off by the rounding of the largest: sums may round once or twice.
    """
    rtol = atol = None
    if expected.dtype in (torch.float16, torch.bfloat16) and expected.numel():
        rtol, atol = 0.0, 2 * torch.finfo(expected.dtype).eps * float(expected.detach().abs().max())
    try:
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise Broken(f"{what} {_difference(got, expected)}") from error


def _require_raises_runtime_error(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except RuntimeError:
        return
    except Exception as error:
        raise Broken(f"{what} gave a {type(error).__name__} instead of a RuntimeError.") from error
    raise Broken(f"{what} raised nothing.")


def require_raises(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except (TypeError, ValueError):
        return
    except Exception as error:
        raise Broken(f"{what} gave a {type(error).__name__} instead of TypeError or ValueError.") from error
    raise Broken(f"{what} raised nothing.")


def parametrization_of(layer: Any) -> Any:
    return layer.parametrizations.weight[0]


def stored(layer: Any) -> Tensor:
    x = layer.parametrizations.weight.original
    assert isinstance(x, Tensor)
    return x


def dense(layer: Any) -> Tensor:
    weight = layer.weight.detach().clone()
    assert isinstance(weight, Tensor)
    return weight


def loss(output: Tensor) -> Tensor:
    return (output.abs() ** 2).sum()


def set_stored(layer: Any, x: Tensor) -> None:
    with torch.no_grad():
        stored(layer).copy_(x)


def _difference(got: Tensor, expected: Tensor) -> str:
    if got.shape != expected.shape:
        return f"has shape {tuple(got.shape)} instead of {tuple(expected.shape)}."
    apart = int((got != expected).sum())
    return f"differs in {apart} of {got.numel()} entries, by at most {_most(got - expected):.3g}."


def _most(difference: Tensor) -> float:
    return float(difference.detach().abs().max()) if difference.numel() else 0.0


# The parametrization by itself.


@law
def has_the_contract(subject: Subject) -> None:
    """It has forward, right_inverse, contains, linear and extra_repr."""
    names = ("forward", "right_inverse", "contains", "linear", "extra_repr")
    missing = [name for name in names if not callable(getattr(subject.parametrization, name, None))]
    require(not missing, f"Missing: {', '.join(missing)}.")


@law
def repr_is_complete(subject: Subject) -> None:
    """Printed, it shows the weight's shape and how many numbers are stored."""
    layer = subject.layer()
    text = parametrization_of(layer).extra_repr()
    for number in (*subject.weight.shape, stored(layer).numel()):
        require(str(number) in text, f"The number {number} is not in {text!r}.")


@law
def forward_gives_a_plain_tensor(subject: Subject) -> None:
    """The weight is a dense tensor with the dtype and device of the stored one, the same at every call."""
    layer = subject.layer()
    x, weight = stored(layer), layer.weight
    require(type(weight) is Tensor, f"The weight is a {type(weight).__name__}, not a torch.Tensor.")
    require(weight.layout is torch.strided, f"The weight's layout is {weight.layout}.")
    require(weight.dtype == x.dtype, f"The weight is {weight.dtype}, the stored tensor {x.dtype}.")
    require(weight.device == x.device, f"The weight is on {weight.device}, the stored tensor on {x.device}.")
    require_equal(layer.weight, weight, "The weight, asked for twice,")


@law
def right_inverse_is_fresh(subject: Subject) -> None:
    """The stored tensor is contiguous, holds no more memory than its numbers, and shares none."""
    weight = subject.weight.detach().clone()
    x = subject.fresh().right_inverse(weight)
    require(x.is_contiguous(), f"The stored tensor has strides {x.stride()}.")
    held, needed = x.untyped_storage().nbytes(), x.numel() * x.element_size()
    require(held == needed, f"The stored tensor holds {held} bytes for {needed} bytes of numbers.")
    shared = held > 0 and x.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    require(not shared, "The stored tensor shares memory with the weight that it was computed from.")


@law
def every_stored_value_is_in_the_set(subject: Subject) -> None:
    """For every finite stored value, however extreme, the weight is in the set and its gradient finite."""
    layer = subject.layer()
    contains, limits = parametrization_of(layer).contains, torch.finfo(subject.weight.dtype)
    sizes = [0.0, limits.tiny, limits.eps, 1e-3, 1.0, 11.5, 90.0, 710.0, limits.max**0.5, limits.max]
    values = torch.tensor([sign * size for size in sizes for sign in (1, -1)], dtype=torch.float64)
    values = values.clamp(limits.min, limits.max).to(subject.weight)
    for value in values:
        set_stored(layer, torch.full_like(stored(layer), value))
        require(contains(dense(layer)), f"Stored values of {value.item():.6g} give a weight outside the set.")
        layer.zero_grad()
        layer.weight.real.sum().backward()
        gradient = stored(layer).grad
        finite = gradient is not None and bool(gradient.isfinite().all())
        require(finite, f"Stored values of {value.item():.6g} have a gradient that is not finite.")


@law
def contains_tells_members(subject: Subject) -> None:
    """`contains` is True for the layer's own weight, False for one outside, False for one with a NaN."""
    layer = subject.layer()
    contains, inside = parametrization_of(layer).contains, dense(layer)
    answer = contains(inside)
    require(isinstance(answer, bool), f"contains returns a {type(answer).__name__}, not a bool.")
    require(answer, "contains is False for the weight that registering gave.")
    require(not contains(torch.full_like(inside, torch.nan)), "contains is True for a weight of NaN.")
    require(not contains(subject.outsider()), "contains is True for every matrix tried.")


@law
def contains_takes_a_tolerance(subject: Subject) -> None:
    """``contains(weight, atol)`` grows with ``atol``, which is 0 if it is not given."""
    contains, outsider = parametrization_of(subject.layer()).contains, subject.outsider()
    far = 4 * float(outsider.abs().max())
    require(contains(outsider, atol=far), f"contains is False at atol={far:.3g} for a weight that is not that far off.")
    require(not contains(outsider, atol=0.0), "contains is True at atol=0 for a weight that is outside.")


@law
def contains_refuses_what_the_map_misses(subject: Subject) -> None:
    """Whatever `contains` accepts, registering reproduces: no matrix outside the map's reach is a member."""
    layer = subject.layer()
    contains = parametrization_of(layer).contains
    for candidate in (
        torch.zeros_like(subject.weight),
        subject.weight.detach().clone(),
        -subject.weight.detach(),
    ):
        if contains(candidate):
            layer.weight = candidate
            _require_unmoved(layer, candidate, "A weight that contains accepts")


# Registering and assigning.


@law
def registering_enters_the_set(subject: Subject) -> None:
    """Registering on any finite weight gives a finite weight in the set."""
    layer = subject.layer()
    weight, x = dense(layer), stored(layer)
    require(bool(x.isfinite().all()), f"{int((~x.isfinite()).sum())} stored numbers are not finite.")
    require(bool(weight.isfinite().all()), f"{int((~weight.isfinite()).sum())} entries are not finite.")
    require(parametrization_of(layer).contains(weight), "The registered weight is not in the set.")


@law
def registering_keeps_a_member(subject: Subject) -> None:
    """Registering does not move a weight that is already in the set (beyond `rounding`, zero by default)."""
    member = subject.member()
    layer = subject.layer(member)
    if not parametrization_of(layer).contains(member):
        raise Skipped("registering twice gives two different sets")
    _require_unmoved(layer, member, "A member that is registered")


@law
def assigning_keeps_a_member(subject: Subject) -> None:
    """Assigning a weight in the set gives that weight (beyond `rounding`, zero by default)."""
    layer = subject.layer()
    member = dense(layer)
    set_stored(layer, stored(layer) / 2)
    layer.weight = member
    _require_unmoved(layer, member, "A member that is assigned")


@law
def assigning_an_outsider_follows_the_policy(subject: Subject) -> None:
    """Assigning a weight outside the set raises a ValueError and changes nothing, or projects if asked to."""
    outsider, layer = subject.outsider(), subject.layer()
    if getattr(parametrization_of(layer), "on_infeasible", "raise") == "project":
        copied = outsider.clone()
        layer.weight = outsider
        require_equal(outsider, copied, "The assigned tensor, after its projection,")
        require(parametrization_of(layer).contains(dense(layer)), "The projected weight is not in the set.")
        return
    before = dense(layer)
    require_raises(partial(setattr, layer, "weight", outsider), "Assigning a weight outside the set")
    require_equal(dense(layer), before, "After a refused assignment the weight")


@law
def assigning_shares_no_memory(subject: Subject) -> None:
    """After ``layer.weight = W`` nothing that happens to the layer changes W, nor the other way round."""
    layer = subject.layer()
    member = dense(layer)
    copied = member.clone()
    layer.weight = member
    set_stored(layer, stored(layer) * 2 + 1)
    require_equal(member, copied, "The assigned tensor, after a step on the layer,")
    changed = dense(layer)
    member.fill_(3)
    require_equal(dense(layer), changed, "The layer's weight, after a write to the assigned tensor,")


@law
def bad_input_changes_nothing(subject: Subject) -> None:
    """Integers, 3 dimensions, another shape, NaN and infinity raise TypeError or ValueError, first of all."""
    layer = subject.layer()
    before, member = stored(layer).detach().clone(), dense(layer)
    poisoned = {"NaN": member.clone().fill_(torch.nan), "infinity": member.clone().fill_(torch.inf)}
    shapes = {"another shape": torch.cat([member, member]), "3 dimensions": member.unsqueeze(0)}
    for what, value in {**poisoned, **shapes, "integers": member.abs().int()}.items():
        require_raises(partial(setattr, layer, "weight", value), f"Assigning {what}")
        require_equal(stored(layer), before, f"After assigning {what}, the stored tensor")
    buffers = nn.Module()
    for what, value in {**poisoned, "3 dimensions": shapes["3 dimensions"]}.items():
        buffers.register_buffer("weight", value, persistent=False)
        register = partial(register_parametrization, buffers, "weight", subject.fresh())
        require_raises(register, f"Registering on {what}")


@law
def one_object_for_one_tensor(subject: Subject) -> None:
    """Registering an object that belongs to a tensor on a second one is an error."""
    parametrization = parametrization_of(subject.layer())
    second = subject.plain()
    register = partial(register_parametrization, second, "weight", parametrization)
    require_raises(register, "Registering one object on a second tensor")
    require(type(second) is nn.Linear, "The refused layer was changed.")


# Training.


@law
def gradients_are_right(subject: Subject) -> None:
    """Gradcheck and gradgradcheck pass: reverse, forward and batched."""
    layer = subject.layer(subject.weight.detach().to(_widest(subject)))
    x = stored(layer).detach().clone().requires_grad_()
    fast = subject.weight.numel() > 100
    options: dict[str, Any] = {"fast_mode": fast, "check_forward_ad": True}
    torch.autograd.gradcheck(parametrization_of(layer), (x,), check_batched_grad=True, **options)
    torch.autograd.gradgradcheck(parametrization_of(layer), (x,), fast_mode=fast)


@law
def backward_works_at_every_step(subject: Subject) -> None:
    """Any number of forward and backward passes give the same finite gradient."""
    layer = subject.layer()
    gradients = [_gradient(layer, subject.inputs(3)) for _ in range(3)]
    require(bool(gradients[0].isfinite().all()), "The gradient of the stored tensor is not finite.")
    for gradient in gradients:
        require_equal(gradient, gradients[0], "The gradient of a later pass")


@law
def optimizers_stay_in_the_set(subject: Subject) -> None:
    """Steps of every optimizer, with weight decay, momentum and an absurd rate, stay in the set."""
    for optimizer_of in OPTIMIZERS:
        layer = subject.layer()
        optimizer = optimizer_of(list(layer.parameters()))
        for _ in range(3):
            optimizer.step(partial(_closure, layer, subject.inputs(3)))
            if not bool(stored(layer).isfinite().all()):
                break
            inside = parametrization_of(layer).contains(dense(layer))
            require(inside, f"A step of {type(optimizer).__name__} moved the weight out of the set.")


OPTIMIZERS: tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], ...] = (
    lambda p: torch.optim.SGD(p, lr=10.0, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.RMSprop(p, lr=10.0, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.Adagrad(p, lr=10.0, weight_decay=0.1),
    lambda p: torch.optim.LBFGS(p, lr=10.0, max_iter=3),
)


# The product that a fused layer multiplies with.


@law
def linear_is_the_dense_product(subject: Subject) -> None:
    """``linear`` equals ``F.linear`` with the weight, in value and every gradient, for every input shape."""
    parametrization = parametrization_of(layer := subject.layer())
    for batch, bias in itertools.product([(), (5,), (2, 3), (0,), (2, 0)], [layer.bias.detach(), None]):
        leaves = [subject.inputs(*batch), stored(layer).detach(), *([] if bias is None else [bias])]
        got = _outcome(lambda i, x, b=None: parametrization.linear(i, x, b), leaves)
        expected = _outcome(lambda i, x, b=None: F.linear(i, parametrization(x), b), leaves)
        for one, other in zip(got, expected, strict=True):
            require_close(one, other, f"For inputs of shape {(*batch, 'in')}, linear's output or its gradient")


@law
def linear_is_differentiable_to_any_order(subject: Subject) -> None:
    """Gradcheck and gradgradcheck of ``linear`` pass for every argument; also forward and batched."""
    layer = subject.layer(subject.weight.detach().to(_widest(subject)))
    leaves = [t.detach().clone() for t in (subject.inputs(2).to(layer.bias), stored(layer), layer.bias)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    linear, fast = parametrization_of(layer).linear, subject.weight.numel() > 16
    torch.autograd.gradcheck(linear, leaves, fast_mode=fast, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(linear, leaves, fast_mode=fast)


@law
def linear_works_for_only_some_gradients(subject: Subject) -> None:
    """Whatever is frozen, the other gradients are what they are when nothing is."""
    parametrization = parametrization_of(layer := subject.layer())
    leaves = [subject.inputs(3), stored(layer).detach(), layer.bias.detach()]
    every = _outcome(parametrization.linear, leaves)[1:]
    for frozen in itertools.product([True, False], repeat=3):
        taken = [leaf.clone().requires_grad_(not stays) for leaf, stays in zip(leaves, frozen, strict=True)]
        if not all(frozen):
            loss(parametrization.linear(*taken)).backward()  # type: ignore[no-untyped-call]
        for leaf, gradient, stays in zip(taken, every, frozen, strict=True):
            require((leaf.grad is None) == stays, "A gradient is missing, or was computed for nothing.")
            if leaf.grad is not None:
                require_close(leaf.grad, gradient, f"With {frozen} frozen, a gradient")


@law
def linear_works_under_vmap(subject: Subject) -> None:
    """Under `torch.func.vmap` over inputs, stored tensors or both, ``linear`` is the dense product."""
    parametrization = parametrization_of(layer := subject.layer())
    x, inputs = stored(layer).detach(), subject.inputs(2, 3)
    stack = torch.stack([x, x / 2])
    for dims in ((0, None), (None, 0), (0, 0)):
        arguments = (inputs if dims[0] == 0 else inputs[0], stack if dims[1] == 0 else x)
        got = vmap(lambda i, x: parametrization.linear(i, x, layer.bias), dims)(*arguments)
        expected = vmap(lambda i, x: F.linear(i, parametrization(x), layer.bias), dims)(*arguments)
        require_close(got, expected, f"Under vmap over {dims}, linear")


@law
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
        _require_raises_runtime_error(linear, f"linear with {what}")


@law
def fused_layers_are_the_layers(subject: Subject) -> None:
    """A fused layer has the output, the gradients and the removal of the same layer not fused."""
    layer, inputs = subject.layer(), subject.inputs(3)
    fused: Any = fuse(copy.deepcopy(layer))
    require_close(fused(inputs), layer(inputs), "The fused output")
    require_close(_gradient(fused, inputs), _gradient(layer, inputs), "The fused gradient")
    require_equal(dense(fused), dense(layer), "The fused layer's weight")
    twin = copy.deepcopy(fused)
    remove_parametrizations(twin, "weight")
    require(type(twin) is nn.Linear, f"What removal leaves is a {type(twin).__name__}.")
    require_close(fused(inputs), layer(inputs), "The output of the original of a copy that was removed from")


@law
def fused_layers_autocast(subject: Subject) -> None:
    """Under bfloat16 autocast a fused layer's output has the dtype and value of the dense one."""
    if subject.weight.dtype is not torch.float32:
        raise Skipped("autocast is for float32 layers")
    layer, inputs = subject.layer(), subject.inputs(3)
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        got, expected = fuse(copy.deepcopy(layer))(inputs), layer(inputs)
    require(got.dtype == expected.dtype, f"The output is {got.dtype} instead of {expected.dtype}.")
    require_close(got, expected, "The fused output under autocast")


@law
def fused_layers_compile(subject: Subject) -> None:
    """A fused layer compiles whole, forward and backward, for every size of the batch."""
    layer = subject.layer()
    fused: Any = fuse(copy.deepcopy(layer))
    torch.compiler.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for batch in (3, 5, 7):
        inputs = subject.inputs(batch)
        require_close(compiled(inputs), layer(inputs), "The compiled output")
        require_close(_gradient(fused, inputs, compiled), _gradient(layer, inputs), "The compiled gradient")


@law
def fused_layers_export(subject: Subject) -> None:
    """Exported or traced, a fused layer has the same output, and no operator of this library in the file."""
    layer, inputs, file = subject.layer(), subject.inputs(3), io.BytesIO()
    fused: Any = fuse(copy.deepcopy(layer))
    for strict in (False, True):
        torch.compiler.reset()
        program = torch.export.export(fused, (inputs,), strict=strict)
        foreign = [str(node.target) for node in program.graph.nodes if "parametrizations" in str(node.target)]
        calls = [name for name in foreign if not name.startswith(("p_", "b_", "c_"))]
        require(not any("." in name for name in calls), f"The exported program calls {calls}.")
        run: Callable[[Tensor], Tensor] = program.module()
        require_close(run(inputs), layer(inputs), "The exported program's output")
    traced: Any = torch.jit.trace(fused, inputs)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, file)
    require_close(traced(inputs), layer(inputs), "The traced output")


# What else of PyTorch has to go on working.


@law
def dtype_moves(subject: Subject) -> None:
    """The layer moves through every dtype; the weight follows, stays in the set, and moves by rounding."""
    if subject.weight.is_complex():
        raise Skipped("PyTorch's dtype moves drop the imaginary part")
    layer = subject.layer()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        before = dense(layer)
        layer.to(dtype)
        require(layer.weight.dtype == dtype, f"After .to({dtype}) the weight is {layer.weight.dtype}.")
        inside = parametrization_of(layer).contains(dense(layer))
        require(inside, f"After .to({dtype}) the weight is not in the set.")
        apart = _most(dense(layer).double() - before.double()) / (_most(before) + torch.finfo(dtype).tiny)
        require(apart <= 0.1, f"After .to({dtype}) the weight is off by {apart:.3g} of its largest entry.")


@law
def device_moves(subject: Subject) -> None:
    """What is kept besides the values survives the meta device and back, and a GPU if there is one."""
    layer = subject.layer()
    weight, x = dense(layer), stored(layer).detach().clone()
    if torch.cuda.is_available():
        layer.cuda()
        require_equal(dense(layer).to(weight.device), weight, "The weight on the GPU")
    with _garbage_in_new_memory():
        layer.to("meta").to_empty(device=weight.device)
    set_stored(layer, x)
    require_equal(dense(layer), weight, "After meta, to_empty and restored values the weight")


@law
def meta_registration(subject: Subject) -> None:
    """Registered on the meta device, a layer loads a checkpoint and has its weight."""
    saved = subject.layer()
    try:
        layer: Any = register_parametrization(subject.plain().to("meta"), "weight", subject.fresh())
    except ValueError as error:
        raise Skipped(f"it cannot be registered on meta: {error}") from error
    with _garbage_in_new_memory():
        layer.to_empty(device=subject.weight.device)
    layer.load_state_dict(saved.state_dict())
    require_equal(dense(layer), dense(saved), "The weight of a layer built on meta and loaded")


@law
def evaluation_is_like_training(subject: Subject) -> None:
    """In evaluation mode the weight is the one of training mode."""
    layer = subject.layer()
    weight = dense(layer)
    require_equal(dense(layer.eval()), weight, "The weight in evaluation mode")


@law
def copies_are_independent(subject: Subject) -> None:
    """A deep copy has the same weight, and training it leaves the original alone."""
    layer = subject.layer()
    weight, twin = dense(layer), copy.deepcopy(layer)
    require_equal(dense(twin), weight, "The copy's weight")
    set_stored(twin, stored(twin) * 2 + 1)
    require_equal(dense(layer), weight, "The original's weight, after a change to the copy,")


@law
def state_dict_reloads(subject: Subject) -> None:
    """A strict state dict gives a layer that was registered on another weight the same weight."""
    saved = subject.layer()
    for other in (subject.weight.flip(0), torch.zeros_like(subject.weight), subject.weight.flip(1)):
        layer = subject.layer(other)
        layer.load_state_dict(saved.state_dict())
        require_equal(dense(layer), dense(saved), "The reloaded weight")


@law
def checkpoint_files(subject: Subject) -> None:
    """torch.save with weights_only=True, and safetensors where installed, give the same weight back."""
    saved = subject.layer()
    for read in _round_trips(saved.state_dict()):
        layer = subject.layer(subject.weight.flip(1))
        layer.load_state_dict(read)
        require_equal(dense(layer), dense(saved), "The weight read from a file")


@law
def checkpoint_is_compact(subject: Subject) -> None:
    """The checkpoint holds the stored numbers and at most 12 bytes of structure for each."""
    layer = subject.layer()
    size = sum(t.untyped_storage().nbytes() for t in layer.state_dict().values() if isinstance(t, Tensor))
    x = stored(layer)
    allowed = x.numel() * (x.element_size() + 12) + layer.bias.numel() * layer.bias.element_size() + 64
    require(size <= allowed, f"The checkpoint holds {size} bytes for {x.numel()} stored numbers.")


@law
def autocast_works(subject: Subject) -> None:
    """Under bfloat16 autocast the output has the dtype that a plain layer's has."""
    if subject.weight.dtype is not torch.float32:
        raise Skipped("autocast is for float32 layers")
    layer, inputs = subject.layer(), subject.inputs(3)
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        got, expected = layer(inputs), subject.plain(dense(layer))(inputs)
        weight = layer.weight
    require(got.dtype == expected.dtype, f"The output is {got.dtype}, a plain layer's {expected.dtype}.")
    require(weight.dtype == torch.float32, f"The weight under autocast is {weight.dtype}.")
    require_close(got, expected, "The output under autocast")


@law
def func_transforms_work(subject: Subject) -> None:
    """functional_call under grad, and vmap over stored tensors, agree with plain autograd and a loop."""
    layer, inputs = subject.layer(), subject.inputs(3)
    if not subject.weight.is_complex():
        got = grad(lambda x: loss(functional_call(layer, {STORED: x}, (inputs,))))(stored(layer).detach())
        require_close(got, _gradient(layer, inputs), "The gradient through functional_call")
    stack = torch.stack([stored(layer).detach(), stored(layer).detach() / 2])
    each = torch.stack([parametrization_of(layer)(x) for x in stack])
    require_close(vmap(parametrization_of(layer))(stack), each, "The weights under vmap")


@law
def compiles(subject: Subject) -> None:
    """torch.compile(fullgraph=True) gives the same output and gradient."""
    layer, inputs = subject.layer(), subject.inputs(3)
    expected, gradient = layer(inputs).detach(), _gradient(layer, inputs)
    torch.compiler.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(layer, fullgraph=True, backend="aot_eager")
    require_close(compiled(inputs), expected, "The compiled output")
    require_close(_gradient(layer, inputs, compiled), gradient, "The compiled gradient")


@law
def exports(subject: Subject) -> None:
    """torch.export gives a program with the same output."""
    layer, inputs = subject.layer(), subject.inputs(3)
    program = torch.export.export(layer, (inputs,))
    run: Callable[[Tensor], Tensor] = program.module()
    require_close(run(inputs), layer(inputs), "The exported program's output")


@law
def removal_gives_a_plain_layer(subject: Subject) -> None:
    """remove_parametrizations gives back a plain contiguous nn.Linear with the same output."""
    layer, inputs = subject.layer(), subject.inputs(3)
    expected = layer(inputs).detach()
    remove_parametrizations(layer, "weight")
    require(type(layer) is nn.Linear, f"What is left is a {type(layer).__name__}.")
    require(sorted(layer.state_dict()) == ["bias", "weight"], f"What is left saves {list(layer.state_dict())}.")
    require(layer.weight.is_contiguous(), f"The weight that is left has strides {layer.weight.stride()}.")
    require_equal(layer(inputs), expected, "The output after removal")


def _require_unmoved(layer: Any, member: Tensor, what: str) -> None:
    rounding = getattr(parametrization_of(layer), "rounding", None)
    allowed = rounding(member) if rounding else torch.zeros_like(member.abs())
    moved = (dense(layer) - member).abs()
    beyond = ~(moved <= allowed)  # NaN is beyond
    require(
        not bool(beyond.any()),
        f"{what} moved in {int(beyond.sum())} of {member.numel()} entries, by at most {_most(moved):.3g}.",
    )


@contextlib.contextmanager
def _garbage_in_new_memory() -> Iterator[None]:
    """Have PyTorch fill uninitialised memory with NaN, so that no stale number looks right by luck."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _widest(subject: Subject) -> torch.dtype:
    return torch.complex128 if subject.weight.is_complex() else torch.float64


def _closure(layer: Any, inputs: Tensor) -> float:
    layer.zero_grad()
    value = loss(layer(inputs))
    value.backward()  # type: ignore[no-untyped-call]
    return float(value)


def _gradient(layer: Any, inputs: Tensor, model: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    layer.zero_grad()
    loss((layer if model is None else model)(inputs)).backward()  # type: ignore[no-untyped-call]
    gradient = stored(layer).grad
    assert gradient is not None
    return gradient.clone()


def _outcome(function: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """A function's value and its gradient for every leaf."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    output = function(*leaves)
    return [output, *torch.autograd.grad(loss(output), leaves, materialize_grads=True)]


def _round_trips(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    yield torch.load(file, weights_only=True)
    unknown_to_safetensors = any(tensor.dtype is torch.complex128 for tensor in state.values())
    if importlib.util.find_spec("safetensors") and not unknown_to_safetensors:
        from safetensors.torch import load, save

        yield load(save(state))
