"""Detection of the reason for a call of ``right_inverse``: a registration or an assignment.

PyTorch calls ``right_inverse(weight)`` in both cases. The argument shows neither the case nor the tensor. Three
promises depend on the case and the tensor:

- One object belongs to one tensor, except after `transfer_parametrizations_and_params`, which lets two modules share
  an object and its values.
- A weight outside the set is projected by a registration. An assignment follows ``on_infeasible``.
- A mask is loaded together with its values. A registration adds the hook for this to the list that owns the values.

PyTorch's own `register_parametrization` leaves this information only on the call stack, so this file reads it there.
Nothing is patched. A direct call of ``right_inverse``, without these frames, works too.
"""

from __future__ import annotations

import sys
from types import FrameType

from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations._torch.chains import chains

_BUILD = ParametrizationList.__init__.__code__  # the first parametrization of a tensor
_APPEND = parametrize.register_parametrization.__code__  # every further parametrization
_TRANSFER = parametrize.transfer_parametrizations_and_params.__code__
_ASSIGN = ParametrizationList.right_inverse.__code__


def is_registration() -> bool:
    """Whether PyTorch is registering a parametrization."""
    frame = _innermost_frame()
    return frame is not None and frame.f_code is not _ASSIGN


def is_assignment() -> bool:
    """Whether PyTorch is assigning to a parametrized tensor."""
    frame = _innermost_frame()
    return frame is not None and frame.f_code is _ASSIGN


def is_transfer() -> bool:
    """Whether `transfer_parametrizations_and_params` is registering; two modules then share the stored tensors."""
    frame = _innermost_frame()
    while frame is not None and frame.f_code in (_BUILD, _APPEND):
        frame = frame.f_back
    return frame is not None and frame.f_code is _TRANSFER


def asking_list() -> ParametrizationList | None:
    """The chain for which PyTorch calls ``right_inverse``, on registering or assigning; None for a direct call."""
    frame = _innermost_frame()
    if frame is None:
        return None
    if frame.f_code is _APPEND:
        return chains(frame.f_locals["module"]).get(frame.f_locals["tensor_name"])
    owner: ParametrizationList = frame.f_locals["self"]
    return owner


def _innermost_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code not in (_BUILD, _APPEND, _ASSIGN):
        frame = frame.f_back
    return frame
