"""Laws about the rest of PyTorch: checkpoints, dtypes and devices, transforms of `torch.func`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.utils.parametrize import register_parametrization

from parametrizations._models.fuse import fuse
from parametrizations.testing.requirements import Skipped, most, require, require_close, require_equal, require_raises
from parametrizations.testing.subject import (
    STORED,
    Subject,
    dense,
    gradient_of,
    loss,
    parametrization_of,
    set_stored,
    stored,
)


def state_dict_reloads(subject: Subject) -> None:
    """Strict loading of a state dict restores the weight in a layer with another weight, also from a file.

    The files are those of torch.save, read with weights_only=True, and of safetensors if it is installed.
    """
    saved = subject.layer()
    for state in (saved.state_dict(), *_round_trips(saved.state_dict())):
        for other in (subject.weight.flip(0), torch.zeros_like(subject.weight), subject.weight.flip(-1)):
            layer = subject.layer(other)
            layer.load_state_dict(state)
            require_equal(dense(layer), dense(saved), "The reloaded weight (get_extra_state saves what adopt learns)")


def checkpoint_is_compact(subject: Subject) -> None:
    """The checkpoint holds the stored numbers and at most 12 bytes of structure for each."""
    layer = subject.layer()
    size = sum(t.untyped_storage().nbytes() for t in layer.state_dict().values() if isinstance(t, Tensor))
    x = stored(layer)
    allowed = x.numel() * (x.element_size() + 12) + layer.bias.numel() * layer.bias.element_size() + 64
    require(size <= allowed, f"The checkpoint holds {size} bytes for {x.numel()} stored numbers.")


def saved_structure_is_a_copy_and_checked(subject: Subject) -> None:
    """``state_dict()`` copies structure, such as a mask. Loading structure of another length raises an error."""
    layer = subject.layer()
    weight, state = dense(layer), layer.state_dict()
    kept = [key for key, entry in state.items() if key.endswith("_extra_state") and isinstance(entry, Tensor)]
    shorter = {key: state[key][:-1].clone() for key in kept}
    for key in kept:
        state[key].zero_()
    require_equal(dense(layer), weight, "The weight, after a write into the saved structure,")
    if kept:
        load = partial(layer.load_state_dict, state | shorter)
        require_raises(load, "Loading a structure of another length", RuntimeError, TypeError, ValueError)


def dtype_moves(subject: Subject) -> None:
    """The layer converts to every dtype; the weight follows, stays in the set, and changes only by rounding.

    A move between two dtypes is not checked if squares of the entries overflow in one of them, since nothing trains
    there. Entries below the smallest normal number may become that number.
    """
    if subject.weight.is_complex():
        raise Skipped("PyTorch's dtype moves drop the imaginary part")
    layer = subject.layer()
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        before, limits = dense(layer), torch.finfo(dtype)
        largest = min(limits.max, torch.finfo(before.dtype).max)
        if most(before) > largest**0.5 or most(stored(layer)) > largest:
            continue
        layer.to(dtype)
        require(layer.weight.dtype == dtype, f"After .to({dtype}) the weight is {layer.weight.dtype}.")
        inside = parametrization_of(layer).contains(dense(layer))
        require(inside, f"After .to({dtype}) the weight is not in the set.")
        apart = max(0.0, most(dense(layer).double() - before.double()) - limits.tiny) / max(most(before), limits.tiny)
        require(apart <= 0.1, f"After .to({dtype}) the weight is off by {apart:.3g} of its largest entry.")


def device_moves(subject: Subject) -> None:
    """The weight survives a move to a GPU, if any, and to the meta device and back with the stored values restored."""
    layer = subject.layer()
    weight, x = dense(layer), stored(layer).detach().clone()
    if torch.cuda.is_available():
        layer.cuda()
        require_equal(dense(layer).to(weight.device), weight, "The weight on the GPU")
    with _deterministic():  # so that no stale value is right by luck
        layer.to("meta").to_empty(device=weight.device)
    set_stored(layer, x)
    require_equal(dense(layer), weight, "After meta, to_empty and restored values the weight")


def meta_registration(subject: Subject) -> None:
    """A layer registered on the meta device loads a checkpoint, and then has the saved weight."""
    saved = subject.layer()
    try:
        layer: Any = register_parametrization(subject.plain().to("meta"), "weight", subject.fresh())
    except ValueError as error:
        raise Skipped(f"it cannot be registered on meta: {error}") from error
    with _deterministic():
        layer.to_empty(device=subject.weight.device)
    layer.load_state_dict(saved.state_dict())
    require_equal(dense(layer), dense(saved), "The weight of a layer built on meta and loaded")


def func_transforms_work(subject: Subject) -> None:
    """functional_call under grad, and vmap over stored tensors, agree with plain autograd and a loop."""
    layer, inputs = subject.layer(), subject.inputs(3)
    if not subject.weight.is_complex():
        got = grad(lambda x: loss(functional_call(layer, {STORED: x}, (inputs,))))(stored(layer).detach())
        require_close(got, gradient_of(layer, inputs), "The gradient through functional_call")
    stack = torch.stack([stored(layer).detach(), stored(layer).detach() / 2])
    each = torch.stack([parametrization_of(layer)(x) for x in stack])
    require_close(vmap(parametrization_of(layer))(stack), each, "The weights under vmap")


def deterministic_algorithms_do(subject: Subject) -> None:
    """Under `torch.use_deterministic_algorithms`, registering works, and layers compute the same as by default."""
    layer, inputs = fuse(subject.layer()), subject.inputs(3)
    weight, output, gradient = dense(layer), layer(inputs).detach(), gradient_of(layer, inputs)
    with _deterministic():
        subject.layer()
        require_equal(dense(layer), weight, "The weight by deterministic algorithms")
        require_close(layer(inputs).detach(), output, "The output by deterministic algorithms")
        require_close(gradient_of(layer, inputs), gradient, "The gradient by deterministic algorithms")


def _round_trips(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    yield torch.load(file, weights_only=True)
    unknown_to_safetensors = any(getattr(entry, "dtype", None) is torch.complex128 for entry in state.values())
    if importlib.util.find_spec("safetensors") and not unknown_to_safetensors:
        from safetensors.torch import load, save

        yield load(save(state))


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Require deterministic algorithms, under which PyTorch fills new memory with NaN."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
