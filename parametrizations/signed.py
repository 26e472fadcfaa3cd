"""`Signed`: a weight with given signs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from parametrizations import signs as rules
from parametrizations._checks import by_signature, require_choice
from parametrizations._mask_state import Name
from parametrizations._products.choice import Product
from parametrizations._products.places import Places
from parametrizations._signed_entries import EXP, SOFTPLUS, Signs
from parametrizations._torch.caller import asking_list, is_registration
from parametrizations._torch.chains import steps
from parametrizations._torch.private import are_transforms_active
from parametrizations._torch.transforms import is_recorded
from parametrizations.masks import MaskRule
from parametrizations.masks.arguments import Array, broadcasts, is_array, numbers
from parametrizations.parametrization import Infeasible, Parametrization

__all__ = ["Signed"]

MAPS = {"exp": EXP, "softplus": SOFTPLUS}


class Signed(Parametrization):
    """A weight whose entries have given signs, for all finite stored values: strictly positive or negative.

    ``weight = sign * map(x)``, and ``weight = x`` at entries with the sign 0, which are free. The free parameters are
    ``x``, of the shape of the weight. The weight has any shape, scalars included; it is real or complex. The sign of a
    complex number is that of its real part, as in S4D: ``sign * map(x.real) + i x.imag``.

    On top of a `MaskedSparse`, `Diagonal` or `ZeroDiagonal`, the map acts only on the entries that this constraint
    keeps, and its zeros stay. A layer uses the product of `MaskedSparse` or `Diagonal`, but not of `ZeroDiagonal`.

    Registering keeps entries with the right sign, up to a relative error of ``1 + |log |w||`` machine epsilons. Any
    other entry is reflected: ``sign * max(|w|, 1e-4)``. Assigning a weight with wrong signs, or with zeros, raises
    instead, unless ``on_infeasible="project"``.

    The signs are structure, not data: neither parameter nor buffer. They move with the module, and are saved in the
    state dict as ``parametrizations.weight.0._extra_state``.

    Limits: with ``map="exp"``, weight decay pulls the size of the entries to 1, not to 0; with ``"softplus"`` to 0.69.
    Exempt ``x`` from decay, and penalise the weight instead if it should be small. `remask` refuses a
    `Signed` with one sign for each kept entry, as from `signs.as_is` on top of a mask.

    Args:
        signs: 1, -1, or a tensor or array of -1, 0 and 1 that broadcasts to the weight, such as ``(in,)`` for a sign of
            each column; or a rule that gets the weight at registration and returns such a tensor. See
            `parametrizations.signs`. They are stored as given, one byte each.
        map: ``"exp"``, for weights of any scale, or ``"softplus"``, which grows as ``x``. Both are finite and positive
            for every finite ``x``; see `parametrizations.positive`.
        on_infeasible: What assigning a weight outside the set does: ``"raise"`` a `ValueError`, or ``"project"`` it.
        product: Without effect. Alone, `Signed` has only the dense product. On top of another constraint, the option
            ``product`` of the first constraint counts.

    Raises:
        TypeError: If ``signs`` has a type not listed above.
        ValueError: If ``signs`` has other values, or, at registration, does not broadcast to the weight; and for
            weights as in `Parametrization.right_inverse`.

    Example:
        >>> from torch import nn
        >>> from parametrizations import register, signs
        >>> layer = register(nn.Linear(4, 2, bias=False), {"weight": Signed(signs.dale(0.5))})
        >>> layer.weight > 0
        tensor([[ True,  True, False, False],
                [ True,  True, False, False]])
    """

    needs = "every entry to have its sign, and an absolute value above 0 in the range of the map"
    dims = None

    @by_signature
    def __init__(
        self,
        signs: int | Tensor | Array | Callable[[Tensor], Tensor],
        *,
        map: Literal["exp", "softplus"] = "exp",
        on_infeasible: Infeasible = "raise",
        product: Product = "auto",
    ) -> None:
        super().__init__(on_infeasible=on_infeasible, product=product)
        require_choice("Signed", "map", map, tuple(MAPS))
        self._map = map
        self._rule = _rule(signs) if callable(signs) else None
        self._signs = None if callable(signs) else _checked(signs)
        self._origin: object = self._rule or _described(self._signs)
        self._has_free = _has_zeros(self._signs)
        self.is_per_entry = False  # whether each stored entry of a mask has a sign of its own
        self._earlier: tuple[Parametrization, ...] = ()
        self._at: tuple[object, torch.device | None, Signs] = (None, None, Signs(1))

    @property
    def signs(self) -> Tensor:
        """A copy of the signs as given, int8, not broadcast to the shape of the weight.

        On top of a mask, the rule `signs.as_is` gives one sign for each stored entry instead.

        Example:
            >>> from parametrizations import register
            >>> layer = register(torch.nn.Linear(2, 2), {"weight": Signed(torch.tensor([1, -1]))})
            >>> layer.parametrizations.weight[0].signs
            tensor([ 1, -1], dtype=torch.int8)
        """
        signs = self._known_signs
        return signs.clone() if isinstance(signs, Tensor) else torch.tensor(signs, dtype=torch.int8, device="cpu")

    @signs.setter
    def signs(self, signs: object) -> None:  # noqa: ARG002
        raise AttributeError(
            "Signed needs its signs when it is registered. Got an assignment. Bake the model, and register it with new "
            "signs."
        )

    @property
    def map(self) -> Literal["exp", "softplus"]:
        """The positive map of the stored tensor, ``"exp"`` or ``"softplus"``, fixed when the constraint is made."""
        return self._map

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.shape is None and is_registration():  # PyTorch's check, before it calls right_inverse
            return x
        return self._where_kept(MAPS[self.map].weight, x)

    @override
    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:
        if not self._earlier:  # without earlier constraints, zeros elsewhere change, too: exp(0) = 1
            return None
        entries: Tensor | None = MAPS[self.map].weight(x, self._signs_at(places, x.device))
        for step in self._earlier[1:]:
            entries = None if entries is None else step.on_entries(entries, places)
        return entries

    @override
    def invert_entries(self, entries: Tensor, places: Places) -> Tensor | None:
        if not self._earlier:
            return None
        own, signs = MAPS[self.map], self._signs_at(places, entries.device)
        return own.invert(own.project(entries, signs), signs)

    @override
    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        if self.shape is None and isinstance(self._signs, Tensor) and isinstance(weight, Tensor):
            return broadcasts(self._signs.shape, weight.shape) and super().contains(weight, atol)
        return super().contains(weight, atol)

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return self._where_kept(MAPS[self.map].excess, weight)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self._with_others(self._where_kept(MAPS[self.map].project, weight), weight)

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return self._with_others(self._where_kept(MAPS[self.map].invert, weight), weight)

    @override
    def rounding(self, weight: Tensor) -> Tensor:
        return self._where_kept(MAPS[self.map].rounding, weight)

    @override
    def adopt(self, weight: Tensor) -> None:
        signs, source = self._signs, ""
        if self._rule is not None:
            source = f" from the rule {self._rule}"
            signs = torch.as_tensor(_checked(self._rule(weight.clone()), self._rule), dtype=torch.int8, device="cpu")
        if isinstance(signs, Tensor) and not broadcasts(signs.shape, weight.shape):
            raise ValueError(
                f"Signed needs signs{source} that broadcast to the weight's shape, {tuple(weight.shape)}. Got shape "
                f"{tuple(signs.shape)}. Use e.g. {_shapes(weight.dim())}."
            )
        super().adopt(weight)
        self._earlier = _steps_before(self)
        # The signs outlive a block of inference mode, and ignore the default device.
        with torch.inference_mode(False), torch.device("cpu"):
            if isinstance(signs, Tensor):
                signs = signs.to("cpu" if weight.is_meta else weight.device, copy=True)
                if self._rule is not None and signs.shape == weight.shape and self._kept(weight) is not None:
                    signs, self.is_per_entry = self._earlier[0].invert(signs).clone(), True
        self._signs, self._has_free, self._rule = signs, _has_zeros(signs), None
        self._origin = Name(self._origin)

    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        x = super().right_inverse(weight)
        owner = asking_list() if is_registration() else None
        if owner is not None:
            owner.register_load_state_dict_pre_hook(_check_signs)  # type: ignore[no-untyped-call]
        return x

    @property
    @override
    def _structure(self) -> str:
        sign = f"{self._signs:+d}, " if isinstance(self._signs, int) else ""
        return f"{super()._structure}({sign}map={self.map!r})"

    @override
    def options(self) -> dict[str, object]:
        return {"signs": self._origin} | {name: getattr(self, name) for name in ("map", "on_infeasible", "product")}

    @override
    def get_extra_state(self) -> Tensor:
        """The signs as a new int8 tensor; empty without signs."""
        return torch.empty(0, dtype=torch.int8, device="cpu") if self._signs is None else self.signs.view(-1)

    @override
    def set_extra_state(self, state: Any) -> None:
        """Load the signs of a checkpoint. Raises a `ValueError` if they are damaged or do not fit the present signs."""
        if self._signs is not None or not isinstance(state, Tensor) or state.numel():
            self._signs = self._loadable(state)
            self._has_free, self._at = _has_zeros(self._signs), (None, None, Signs(1))

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if isinstance(self._signs, Tensor):
            moved = fn(torch.empty(0, dtype=torch.int8, device=self._signs.device)).device
            self._signs = self._signs if moved.type == "meta" else self._signs.to(moved)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def _known_signs(self) -> int | Tensor:
        if self._signs is None:
            _ = self._known_shape  # raises if the object is not registered
        assert self._signs is not None
        return self._signs

    def _where_kept(self, function: Callable[[Tensor, Signs], Tensor], weight: Tensor) -> Tensor:
        """Apply a function to the entries that earlier constraints keep, with zeros elsewhere."""
        kept, later = self._kept(weight), [*self._earlier]
        if kept is None:
            found = function(weight, self._signs_of(self._known_signs, weight.device))
        else:
            (entries, places), (first, *later) = kept, later
            found = first.forward(function(entries, self._signs_at(places, weight.device)))
        for step in later:
            found = step.project(found)
        return found

    def _with_others(self, found: Tensor, weight: Tensor) -> Tensor:
        """The mapped weight ``found``; entries that earlier constraints set to 0, and check, stay as in ``weight``."""
        if not self._earlier:
            return found
        kept = weight
        for step in self._earlier:
            kept = step.project(kept)
        others = weight - kept
        return torch.where(others != 0, others, found)

    def _kept(self, weight: Tensor) -> tuple[Tensor, Places] | None:
        """The entries that the chain's first constraint stores, with positions; None if its `places` returns None."""
        first = self._earlier[0] if self._earlier else None
        if first is None or not first.selects:
            return None
        entries = first.invert(weight)
        places = first.places(entries)
        return None if places is None else (entries, places)

    def _signs_at(self, places: Places, device: torch.device) -> Signs:
        """The signs of the stored entries of a mask, memoised: to gather them takes longer than ``exp``."""
        signs = self._known_signs
        if isinstance(signs, int) or self.is_per_entry or is_recorded() or are_transforms_active():
            return self._signs_of(self._gathered(signs, places), device)
        key, on, memoised = self._at
        if key is None or key is not places.key or on != device:  # x can move to meta; the mask and its key stay
            with torch.inference_mode(False):
                memoised = self._signs_of(self._gathered(signs, places), device)
            self._at = places.key, device, memoised
        return memoised

    def _gathered(self, signs: int | Tensor, places: Places) -> int | Tensor:
        if isinstance(signs, int) or self.is_per_entry or not signs.dim():
            return signs
        rest = places.positions().long()
        index, stride = torch.zeros_like(rest), 1
        for size, own in zip(places.shape[::-1], signs.shape[::-1], strict=False):
            index, rest = index + rest % size % own * stride, rest // size  # own is 1 or size
            stride *= own
        return signs.to(rest.device).flatten()[index]

    def _signs_of(self, signs: int | Tensor, device: torch.device) -> Signs:
        signs = signs.to(device) if isinstance(signs, Tensor) else signs
        return Signs(signs, signs == 0 if self._has_free and isinstance(signs, Tensor) else None)

    def _loadable(self, state: object) -> int | Tensor:
        """The signs in the extra state of a checkpoint, checked."""
        own = self._known_signs
        shape = self._earlier[0].stored_shape if self.is_per_entry else self.signs.shape
        count = shape.numel()
        if not isinstance(state, Tensor) or state.is_meta or state.shape != (count,) or not _are_signs(state):
            got: object = type(state).__name__
            if isinstance(state, Tensor):
                wrong = state.shape == (count,) and not state.is_meta
                got = _first_wrong(state) if wrong else f"{state.dtype} of shape {tuple(state.shape)}"
            raise ValueError(
                f"Signed needs {count} signs, -1, 0 or 1, in its checkpoint. Got {got}. Load the signs together with "
                "the mask and the values, into a layer with the same constraint."
            )
        if isinstance(own, int) and int(state) != own:
            raise ValueError(
                f"Signed needs a checkpoint with the sign {own:+d}. Got {int(state):+d}. Load it into a model with "
                f"Signed({int(state):+d}), or load its plain_state_dict."
            )
        return own if isinstance(own, int) else state.view(shape).to(own, copy=True)


def _check_signs(owner: nn.Module, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
    """A pre-hook of ``load_state_dict``: refuses signs that do not fit; the layer then keeps its signs and values."""
    for name, step in owner.named_children():
        key = f"{prefix}{name}._extra_state"
        if isinstance(step, Signed) and key in state_dict:
            try:
                step._loadable(state_dict[key])
            except ValueError as error:
                arguments[-1].append(str(error))
                own = owner.state_dict(prefix=prefix)
                state_dict |= {name: own[name] for name in own.keys() & state_dict.keys()}


def _steps_before(step: Signed) -> tuple[Parametrization, ...]:
    """The earlier constraints of the chain that only set entries to zero."""
    owner = asking_list()
    before = itertools.takewhile(lambda one: one is not step, () if owner is None else steps(owner))
    return tuple(one for one in before if isinstance(one, Parametrization) and one.has_zeros)


def _rule(signs: Callable[[Tensor], Tensor]) -> rules.SignRule:
    """The callable ``signs`` as a `SignRule`. Refuses mask rules, classes, and `dale` or `as_is` without their call."""
    if isinstance(signs, rules.SignRule):
        return signs
    if isinstance(signs, MaskRule):
        raise TypeError(f"Signed needs a rule for signs. Got the mask rule {signs}. Write MaskedSparse({signs}).")
    name = getattr(signs, "__name__", type(signs).__name__)
    is_ours = getattr(signs, "__module__", None) == rules.__name__
    if isinstance(signs, type) or (inspect.isfunction(signs) and is_ours):
        call = f"{'signs.' * is_ours}{name}({'...' * isinstance(signs, type)})"
        raise TypeError(f"Signed needs a rule for signs. Got {name}, which makes one. Write {call}.")
    return rules.SignRule(name, signs)


def _checked(signs: object, rule: object = None) -> int | Tensor:
    """The signs as an integer or an int8 tensor, checked; an error names the ``rule`` that returned them, if any."""
    source = "" if rule is None else f" from the rule {rule}"
    known = isinstance(signs, int | float | Tensor | list | tuple) or is_array(signs)
    if not known or isinstance(signs, bool):
        advice = "Pass e.g. Signed(-1), or a rule such as signs.dale()"
        raise TypeError(
            f"Signed needs 1, -1, or a tensor of -1, 0 and 1{source}. Got {type(signs).__name__}. "
            f"{advice if rule is None else 'Return e.g. torch.where(weight < 0, -1, 1)'}."
        )
    if isinstance(signs, Tensor):
        _require_values(signs, source)
    listed = torch.tensor(signs, device="cpu") if isinstance(signs, int | float) else signs
    given = numbers("Signed", listed, "torch.tensor([1, -1])")
    if given.dtype is torch.bool or not _are_signs(given):
        verb = "Pass" if rule is None else "Return"
        call = f"torch.sign(signs{'.real' if given.is_complex() else ''})"
        call = "torch.where(mask, 1, -1)" if given.dtype is torch.bool else call
        raise ValueError(
            f"Signed needs signs of 1, -1, or 0 for free entries{source}. Got {_first_wrong(given)}. {verb} {call}."
        )
    if given.dim() == 0 and given == 0:
        raise ValueError(
            f"Signed needs a sign of 1 or -1{source}. Got 0, which leaves every entry free. Leave Signed out."
        )
    return int(given) if given.dim() == 0 else given.to(torch.int8)


def _require_values(signs: Tensor, source: str) -> None:
    if signs.is_meta:
        raise ValueError(
            f"Signed needs the values of its signs{source}. Got a tensor on the meta device, which has none. Create "
            'the signs with device="cpu", or materialise the weight first.'
        )
    if signs.layout is not torch.strided:
        raise ValueError(f"Signed needs a dense tensor of signs{source}. Got {signs.layout}. Convert it by to_dense().")


def _first_wrong(given: Tensor) -> object:
    if given.dtype is torch.bool or given.is_complex():
        return given.dtype
    return given[~_is_sign(given)].flatten()[0].item()


def _are_signs(given: Tensor) -> bool:
    return not given.is_complex() and bool(_is_sign(given).all())


def _is_sign(given: Tensor) -> Tensor:
    size = given if given.dtype is torch.bool else given.abs()
    return (size == 0) | (size == 1)


def _has_zeros(signs: int | Tensor | None) -> bool:
    return isinstance(signs, Tensor) and bool((signs == 0).any())


def _shapes(dims: int) -> str:
    if dims == 2:
        return "(in,) for a sign of each column, or (out, 1) for each row"
    ones = ", 1" * (dims - 2)
    return f"(in{ones}) for a sign of each input channel of a convolution, or (out, 1{ones}) for each output channel"


def _described(signs: int | Tensor | None) -> Name:
    return Name(f"tensor of shape {tuple(signs.shape)}" if isinstance(signs, Tensor) else f"{signs:+d}")
