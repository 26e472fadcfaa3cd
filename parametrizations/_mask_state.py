"""The mask of `MaskedSparse`: as the user or a rule gives it, and its positions in a checkpoint.

A mask is structure, not data. As a buffer it would be averaged by EMA, re-broadcast by DDP and wiped by ``to_empty``.
It is therefore extra state, loaded together with the values. A mask from a file is checked before a kernel of PyTorch
indexes memory by its positions.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from parametrizations import masks
from parametrizations._products.operands import index_dtype
from parametrizations._torch.chains import TIES, given
from parametrizations._torch.parameters import replace_data
from parametrizations.masks import MaskRule
from parametrizations.masks.arguments import is_array
from parametrizations.masks.pattern import Pattern
from parametrizations.parametrization import COMPLEX, FLOATING


class Name(str):
    """A string with a `repr` without quotes. It replaces a rule after its use, since a rule may hold a large mask."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True, eq=False)
class Given:
    """A function that ignores the weight and returns a given mask. Unlike a closure, it can be pickled."""

    pattern: Pattern

    def __call__(self, weight: Tensor) -> Pattern:  # noqa: ARG002
        return self.pattern


def as_rule(mask: object) -> MaskRule:
    """A `MaskRule` unchanged; for a mask or another callable, a new `MaskRule`."""
    if isinstance(mask, Tensor | Pattern) or is_array(mask) or hasattr(mask, "tocoo"):
        pattern = Pattern.of(mask)
        return MaskRule(f"tensor of shape {tuple(pattern.shape)}", Given(pattern), by_shape=True)
    if isinstance(mask, MaskRule):
        return mask
    if not callable(mask):
        raise TypeError(
            f"MaskedSparse needs a boolean tensor or a mask rule. Got {type(mask).__name__}. {_advice(mask)}."
        )
    if inspect.isfunction(mask) and (mask.__module__ or "").startswith(masks.__name__):
        options = inspect.signature(mask).parameters
        needed = "..." if any(option.default is option.empty for option in options.values()) else ""
        raise TypeError(
            f"MaskedSparse needs a mask rule. Got the function masks.{mask.__name__}, which makes one. "
            f"Write masks.{mask.__name__}({'density=0.1' if 'density' in options else needed})."
        )
    _require_one_argument(mask)
    return MaskRule(getattr(mask, "__name__", type(mask).__name__), partial(_on_copy, mask))


def _on_copy(function: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    return function(weight.clone())  # a user's function may write into its argument


def _require_one_argument(mask: Callable[..., object]) -> None:
    name = getattr(mask, "__name__", type(mask).__name__)
    try:
        inspect.signature(mask).bind(None)
    except TypeError as error:
        raise TypeError(
            f"MaskedSparse needs a rule with one argument. Got {name}: {error}. Write e.g. lambda weight: weight != 0."
        ) from None
    except ValueError:  # a builtin without a signature
        pass


def _advice(mask: object) -> str:
    if isinstance(mask, float):
        return "Pass a rule, such as masks.magnitude(density=0.1)"
    if isinstance(mask, list | tuple):
        return "Pass torch.tensor(mask)"
    return "Pass a rule, such as one of parametrizations.masks; for pairs of units, masks.from_edges(pairs)"


def pattern_for(rule: MaskRule, weight: Tensor) -> Pattern:
    """The pattern that a rule chooses for a weight, with a warning if it keeps nothing."""
    pattern = rule.pattern(weight)
    if weight.numel() > 1 and not pattern.positions.numel():
        text = f"{rule} keeps none of {weight.numel()} entries: the weight stays zero. True keeps an entry."
        warnings.warn(text, stacklevel=2)
    return pattern


def as_positions(rule: MaskRule, positions: object, entries: int) -> Tensor:
    """The positions that a rule's ``move`` has returned, sorted and checked."""
    whole = isinstance(positions, Tensor) and positions.dtype in (torch.int32, torch.int64) and positions.dim() == 1
    if not isinstance(positions, Tensor) or not whole or positions.is_meta:
        got = type(positions).__name__
        if isinstance(positions, Tensor):
            got = f"{positions.dtype} of shape {tuple(positions.shape)} on {positions.device}"
        raise TypeError(
            f"{rule} needs a move that returns positions: 1-D, int32 or int64. Got {got}. Return the row-major "
            "positions of the entries to keep. See the argument move of MaskRule."
        )
    outside = positions.numel() > 0 and not (int(positions.min()) >= 0 and int(positions.max()) < entries)
    found = positions if outside else positions.to(index_dtype(entries))
    found = found if _is_rising(found) else found.sort(stable=True).values
    if outside or not _is_rising(found):
        raise ValueError(
            f"{rule} needs a move that returns positions from 0 to {entries - 1}, each once. Got some repeated, or out "
            "of range. Return only the positions to keep, as row * columns + column, without repeats."
        )
    return found


def _is_rising(positions: Tensor) -> bool:
    return bool((positions[1:] > positions[:-1]).all())


def pack(shape: torch.Size, positions: Tensor) -> Tensor:
    """A new integer tensor, ``(dimensions + nnz,)``: the sizes of the weight, then the positions."""
    return torch.cat([positions.new_tensor(shape), positions])


def unpack(state: object, shape: torch.Size) -> Tensor:
    """The positions in ``state``, the extra state of a checkpoint, checked.

    Raises:
        ValueError: If ``state`` is not for a weight of ``shape``: another type, another shape, or positions out of
            range, unsorted or repeated.
    """
    numbers = _integers(state)
    saved, positions = tuple(numbers[: len(shape)].tolist()), numbers[len(shape) :]
    if saved != tuple(shape):
        raise ValueError(
            f"MaskedSparse needs a mask for a weight of shape {tuple(shape)}. Got one for shape "
            f"{saved}. Load it into a layer of that shape."
        )
    last = shape.numel() - 1
    for wrong, rule, fault in (
        ((positions < 0) | (positions > last), f"positions from 0 to {last}", "out of range"),
        (positions[1:] <= positions[:-1], "positions in increasing order", "not below the next one"),
    ):
        if bool(wrong.any()):
            raise ValueError(
                f"MaskedSparse needs {rule} in its mask. Got {int(wrong.sum())} {fault}, the first at index "
                f"{int(wrong.nonzero()[0])}. The checkpoint is damaged: restore it from its source."
            )
    return positions


def load_together(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
    """Load values and positions together or not at all.

    This is a pre-hook of ``load_state_dict``, on the `ParametrizationList` that holds the values. PyTorch loads the
    values first and the mask afterwards, each without the other. Here both are checked before either changes. Another
    number of values than before resizes the parameter in place. If the mask or the values are wrong,
    the layer is unchanged, and ``load_state_dict`` reports the error.
    """
    assert isinstance(owner, ParametrizationList)
    name, sparse = _masked(owner)
    if sparse is None:
        return
    values_key, mask_key = f"{prefix}original", f"{prefix}{name}._extra_state"
    if _is_averaged(state_dict.get(mask_key), sparse):
        state_dict[mask_key] = sparse.get_extra_state()
    there = given(owner, state_dict, prefix)
    if mask_key in there and values_key not in state_dict and hasattr(owner, TIES):
        state_dict[mask_key] = sparse.get_extra_state()  # tied: the values are saved under another module's name
    elif values_key in state_dict.keys() - there.keys() and _keeps(sparse, there.get(mask_key)):
        state_dict[mask_key] = sparse.get_extra_state()
    elif {values_key, mask_key} & there.keys():
        try:
            positions = _checked_positions(there, values_key, mask_key, sparse._known_shape)
            assigned = arguments[0].get("assign_to_params_buffers", False)
            _require_loadable(there[values_key], owner.original, values_key, assigned)
            if positions.numel() != owner.original.numel():
                _resize(owner.original, positions.numel(), values_key)
                sparse._set_positions(positions)
        except ValueError as error:
            place = f" at {prefix!r}" if prefix else ""
            arguments[-1].append(f"{error} The layer{place} stays as it was.")
            state_dict |= {values_key: owner.original, mask_key: sparse.get_extra_state()}


def _masked(owner: ParametrizationList) -> tuple[str, Any]:
    """The name and the module with the mask: the first parametrization, named "0", or one of its submodules.

    Without a mask, the result is ("", None).
    """
    part: Any
    for name, part in owner[0].named_modules(prefix="0"):
        has_mask = hasattr(part, "_set_positions")
        if has_mask and (name == "0" or (owner.is_tensor and owner.original.shape == part.stored_shape)):
            return name, part
    return "", None


def _is_averaged(state: Any, sparse: Any) -> bool:
    """Whether ``state`` is the mask of ``sparse``, a `MaskedSparse`, in floating point, as in averaged checkpoints.

    Rounded positions do not match: float32 holds integers exactly only up to 2^24.
    """
    if not isinstance(state, Tensor) or not state.is_floating_point() or state.is_meta:
        return False
    own = sparse.get_extra_state()
    return state.shape == own.shape and torch.equal(state.to(own.device, torch.float64), own.double())


def _keeps(sparse: Any, state: Any) -> bool:
    """Whether ``state``, from a checkpoint, is None or equals the extra state of the model's own mask."""
    own = sparse.get_extra_state()
    same_kind = isinstance(state, Tensor) and (state.dtype, state.device) == (own.dtype, own.device)
    return state is None or (same_kind and torch.equal(state, own))


def _checked_positions(there: dict[str, Any], values_key: str, mask_key: str, shape: torch.Size) -> Tensor:
    absent = [key for key in (values_key, mask_key) if key not in there]
    if absent:
        raise ValueError(
            f"MaskedSparse needs values and their positions together. Got no {absent[0]!r} in the checkpoint, which is "
            "incomplete, or of another constraint. Save the whole state_dict of the layer, or load plain_state_dict of "
            "the model that saved the checkpoint."
        )
    positions, values = unpack(there[mask_key], shape), there[values_key]
    if not isinstance(values, Tensor) or values.shape != positions.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"MaskedSparse needs as many values as positions, a tensor of shape {tuple(positions.shape)}. "
            f"Got {got} for {values_key!r}. Restore a checkpoint with values and positions saved together."
        )
    return positions


def _require_loadable(values: Tensor, into: Tensor, key: str, assigned: bool) -> None:
    """Refuse, before the mask changes, values that PyTorch could not load, with ``assign=True`` if ``assigned``."""
    usable = values.layout is torch.strided and values.dtype in FLOATING + COMPLEX
    same_kind = values.is_complex() == into.is_complex()
    materialised = not values.is_meta or into.is_meta or assigned
    if not (usable and same_kind and materialised):
        raise ValueError(
            f"MaskedSparse needs dense floating-point values that can be copied into {into.dtype} on {into.device} for "
            f"{key!r}, both real or both complex. "
            f"Got {values.dtype} of layout {values.layout} on {values.device}. Convert or materialise them first."
        )


def _resize(values: Tensor, count: int, key: str) -> None:
    if type(values) not in (Tensor, nn.Parameter):
        raise ValueError(
            f"MaskedSparse needs {values.numel()} values for {key!r}, since a {type(values).__name__} cannot "
            f"be resized. Got {count}. Load the checkpoint before sharding the model."
        )
    with torch.inference_mode(False):  # the parameter is used outside of inference mode, too
        replace_data(values, torch.zeros(count, dtype=values.dtype, device=values.device))


def _integers(state: object) -> Tensor:
    """The extra state of a checkpoint, refused unless it is a non-empty 1-D tensor of int32 or int64."""
    kind, averaged = type(state).__name__, False
    if isinstance(state, Tensor):
        if state.dtype in (torch.int32, torch.int64) and not state.is_meta and state.dim() == 1 and len(state) > 0:
            return state
        kind, averaged = f"{state.dtype} of shape {tuple(state.shape)}", state.is_floating_point()
    advice = "Restore the checkpoint, and do not convert its masks."
    if averaged:
        advice = "Average only the floating-point entries of checkpoints, which must all have the mask of this model."
    raise ValueError(
        "MaskedSparse needs its mask as a 1-D tensor of int32 or int64, with the weight's shape, then the "
        f"positions. Got {kind}. {advice}"
    )
