"""Laws about checkpoints."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parametrizations.testing.requirements import require, require_equal, require_raises
from parametrizations.testing.subject import Subject, dense, stored


def state_dict_reloads(subject: Subject) -> None:
    """A strict state dict restores the weight in a layer with another weight, also from a file.

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
    """Saved structure, such as a mask, is a copy, and loading one of another length raises an error."""
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


def _round_trips(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    yield torch.load(file, weights_only=True)
    unknown_to_safetensors = any(getattr(entry, "dtype", None) is torch.complex128 for entry in state.values())
    if importlib.util.find_spec("safetensors") and not unknown_to_safetensors:
        from safetensors.torch import load, save

        yield load(save(state))
