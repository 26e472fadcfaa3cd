"""Copies that stand in for what a model stores while something is attached to it.

The tensors themselves change when nothing can be refused any more: a refusal then finds them untouched, with the
graphs that were computed from them, whatever a rule or an inverse has written into what it was shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from parametrizations._models.places import Place
from parametrizations._torch.chains import chains, originals
from parametrizations._torch.parameters import give
from parametrizations._torch.private import buffers, parameters

__all__ = ["put_stand_ins", "take_over"]


def put_stand_ins(place: Place) -> None:
    """Put copies in the place of the tensors that are stored there, without a gradient."""
    for store, name in _slots(place):
        store[name] = _stand_in(store[name])


def take_over(place: Place, tensors: Sequence[Tensor]) -> None:
    """Let the tensors that were there hold what their stand-ins hold now, and take their places again.

    Where one tensor has become several, the several stay.
    """
    slots = _slots(place)
    if len(slots) == len(tensors):
        for (store, name), tensor in zip(slots, tensors, strict=True):
            give(tensor, store[name].data)
            store[name] = tensor


def _slots(place: Place) -> list[tuple[dict[str, Any], str]]:
    """Where the tensors are held that a place stores."""
    chain = chains(place.module).get(place.tensor_name)
    if chain is None:
        return [(parameters(place.module), place.tensor_name)]
    return [
        (store, name) for name in originals(chain) for store in (parameters(chain), buffers(chain)) if name in store
    ]


def _stand_in(tensor: Tensor) -> Tensor:
    copied = tensor.data.clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
