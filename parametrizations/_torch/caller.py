"""Who asks a parametrization for an inverse: a registration or an assignment.

PyTorch calls ``right_inverse(weight)`` in both situations with the same argument. The call says neither whether it
registers or assigns, nor for which tensor. Three promises depend on that: one object belongs to one tensor (but for
`transfer_parametrizations_and_params`, which lets two modules share object and values), an assignment
outside the set raises where a registration projects, and a mask loads together with its values (for which
a hook has to sit on the list that owns the values). The call stack is the only place where PyTorch's own
`register_parametrization` leaves that information, so it is read here and nowhere else. Nothing is
patched, and without these frames a direct call of ``right_inverse`` works all the same.
"""

from __future__ import annotations

import sys
from types import FrameType

from torch.nn.utils.parametrize import (
    ParametrizationList,
    register_parametrization,
    transfer_parametrizations_and_params,
)

from parametrizations._torch.chains import chains

__all__ = ["asking_list", "is_assignment", "is_registration", "is_transfer"]

_BUILD = ParametrizationList.__init__.__code__  # the first parametrization of a tensor
_APPEND = register_parametrization.__code__  # every further one
_TRANSFER = transfer_parametrizations_and_params.__code__
_ASSIGN = ParametrizationList.right_inverse.__code__


def is_registration() -> bool:
    """Whether PyTorch is registering a parametrization right now."""
    frame = _innermost_frame()
    return frame is not None and frame.f_code is not _ASSIGN


def is_assignment() -> bool:
    """Whether PyTorch is assigning to a parametrized tensor right now."""
    frame = _innermost_frame()
    return frame is not None and frame.f_code is _ASSIGN


def is_transfer() -> bool:
    """Whether PyTorch registers the parametrizations of one module on another one, whose values it then shares."""
    frame = _innermost_frame()
    while frame is not None and frame.f_code in (_BUILD, _APPEND):
        frame = frame.f_back
    return frame is not None and frame.f_code is _TRANSFER


def asking_list() -> ParametrizationList | None:
    """The list whose parametrization is asked: the one that is built, that grows, or that is assigned to."""
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
