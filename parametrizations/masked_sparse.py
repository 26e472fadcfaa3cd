"""`MaskedSparse`: a weight with zeros outside a mask."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from parametrizations._checks import by_signature
from parametrizations._mask_state import Given, Name, as_rule, load_together, pack, pattern_for, unpack
from parametrizations._products.choice import OTHER_DEVICE, UNREGISTERED, Explanation, Product, explain_form, form_of
from parametrizations._products.dense import scattered
from parametrizations._products.form import Dense, MaskForm, form_linear
from parametrizations._products.operands import has_rows, index_dtype, require_operands
from parametrizations._products.places import Places, on_diagonal
from parametrizations._torch.caller import asking_list, is_registration
from parametrizations._torch.loops import once
from parametrizations.masks import MaskRule
from parametrizations.masks.arguments import Array, SparseArray
from parametrizations.masks.pattern import Pattern
from parametrizations.parametrization import Infeasible, Parametrization
from parametrizations.signs import SignRule

__all__ = ["MaskedSparse"]


class MaskedSparse(Parametrization):
    """A weight with exact zeros outside a mask, which stores only the kept entries.

    ``weight[mask] = x``, in row-major order, and ``weight[~mask] = 0``. The free parameters are ``x``, ``(nnz,)``. The
    weight has one or more dimensions, such as ``(out, in)`` of `nn.Linear` or ``(out, in, height, width)`` of
    `nn.Conv2d`; it is real or complex. `MaskedSparse` must be the first parametrization of its tensor.

    Registering keeps the entries in the mask bit for bit and drops the rest. Assigning a weight with non-zero entries
    outside the mask raises, or drops these entries (``on_infeasible="project"``).

    The mask is structure, not data: neither parameter nor buffer, so averaging, broadcasts and ``to_empty`` do not
    change it. It moves with the module, and is saved in the state dict as ``parametrizations.weight.0._extra_state``,
    with 4 bytes for each kept entry (8 for a weight of 2^31 entries or more). In memory it takes at most 12 bytes for
    each kept entry (24 if 2^31 or more entries are kept), and some for each row and column. Loading replaces mask and
    values together. If the number of values changes, make a new optimizer, or load the optimizer's state, too.

    Limits: `torch.func.stack_module_state` and averages of models, such as `AveragedModel`, combine the stored values,
    so all models need the same mask. DDP does not broadcast masks: seed a random rule equally on every rank.

    Args:
        mask: A boolean tensor or array of the shape of the weight, True for kept entries; or a sparse tensor or SciPy
            sparse array, whose specified entries are kept; or a mask rule: a callable that gets the weight at
            registration and returns one of these. See `parametrizations.masks`.
        on_infeasible: What assigning a weight outside the set does: ``"raise"`` a `ValueError`, or ``"project"`` it.
        product: How a fused `nn.Linear` (see `fuse`) multiplies: ``"auto"`` chooses by costs measured in advance;
            `explain` lists the other names. It may be set at any time; `tune` selects the fastest.

    Raises:
        TypeError: If ``mask`` has another type, or is dense and not boolean; or as `Parametrization.right_inverse`.
        ValueError: If ``mask`` is a scalar, or does not have the weight's shape; or as `Parametrization.right_inverse`.

    Example:
        >>> from torch import nn
        >>> from parametrizations import masks, register
        >>> layer = register(nn.Linear(3, 3), {"weight": MaskedSparse(masks.lower_triangular())})
        >>> layer.parametrizations.weight[0]
        MaskedSparse(mask=lower_triangular(0), on_infeasible='raise', product='auto', shape=(3, 3), stored=6)
        >>> bool(layer.weight.triu(1).any())
        False
    """

    needs = "every entry outside the mask to be 0"
    dims = None
    products = ("strips", "csr")
    selects = True
    has_zeros = True

    @by_signature
    def __init__(
        self,
        mask: Tensor | Array | SparseArray | Callable[[Tensor], Tensor],
        *,
        on_infeasible: Infeasible = "raise",
        product: Product = "auto",
    ) -> None:
        super().__init__(on_infeasible=on_infeasible, product=product)
        if isinstance(mask, SignRule):
            raise TypeError(f"MaskedSparse needs a mask or a mask rule. Got a rule for signs. Write Signed({mask}).")
        self._rule: MaskRule | None = as_rule(mask)
        self._origin: object = self._rule
        self._form: MaskForm | None = None
        self._chosen = UNREGISTERED
        self._stored_shape = torch.Size()
        self._diagonal: Tensor | None = None

    @property
    def rule(self) -> MaskRule | None:
        """The mask rule; None after it has made the mask."""
        return self._rule

    @override
    def with_axes(self, axes: tuple[int, int] | None) -> Self:
        rule = None if self.rule is None else self.rule.with_axes(axes)
        return self if rule is None or rule is self.rule else self._with_rule(rule)

    def _with_rule(self, rule: MaskRule) -> Self:
        """A shallow copy with the same options and another mask rule."""
        twin = copy.copy(self)
        twin._rule = twin._origin = rule
        return twin

    @property
    def positions(self) -> Tensor:
        """The sorted row-major positions of the kept entries, ``(nnz,)``, int32; int64 from 2^31 weight entries on."""
        return self._places().to(index_dtype(self._known_shape.numel()))

    @property
    def mask(self) -> Tensor:
        """The mask as a new boolean tensor of the shape of the weight.

        It is a copy: writing into it, as `torch.ao.pruning` writes into masks, changes nothing. Use `remask` instead.

        Example:
            >>> from parametrizations import masks, register
            >>> layer = register(torch.nn.Linear(2, 2), {"weight": MaskedSparse(masks.lower_triangular())})
            >>> layer.parametrizations.weight[0].mask
            tensor([[ True, False],
                    [ True,  True]])
        """
        return Pattern(self._known_shape, self.positions.long()).dense()

    @mask.setter
    def mask(self, mask: object) -> None:  # noqa: ARG002
        raise AttributeError(
            "MaskedSparse needs a new mask by remask, which moves the values and the state of the optimizer with it. "
            'Got an assignment. Write remask(model, {"layer.weight": mask}, optimizer=optimizer).'
        )

    @property
    @override
    def _known_shape(self) -> torch.Size:
        if self.shape is not None:  # first, for speed at every step; torch.compile need not trace the rest
            return self.shape
        return super()._known_shape if self._given is None else self._given.shape

    @property
    @override
    def stored_shape(self) -> torch.Size:
        if self._rule is None:  # first, for speed: every step reads it
            return self._stored_shape
        return self.positions.shape  # raises if the mask is not known yet

    @override
    def forward(self, x: Tensor) -> Tensor:
        form = self._form
        if type(form) is Dense and form.fits(x):  # first: any other check would take as long as a small layer
            return form.dense(x)
        shape = self._require_stored(x)
        return scattered(x, self._positions_for(x), shape.numel()).view(shape)

    @override
    def explain(self, x: Tensor) -> Explanation:
        chosen, form = explain_form(self._chosen, x), self._form
        # x can be on another device than the mask: on meta, or after load_state_dict(..., assign=True).
        return chosen if form is None or chosen.product == "dense" or form.device == x.device else OTHER_DEVICE

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        form = self._form
        if type(form) is Dense:
            return F.linear(input, self.forward(x), bias)
        if form is None or not has_rows(input) or self.explain(x).product == "dense":
            return F.linear(input, once(self, x, lambda: self.forward(x)), bias)
        require_operands(input, x, bias, self._require_stored(x)[1])
        return form_linear(input, x, bias, form)

    @override
    def places(self, x: Tensor) -> Places:
        diagonal = None if self._diagonal is None else self._diagonal.to(x.device)  # x may be on the meta device
        return Places(self._known_shape, diagonal, lambda: self.positions.to(x.device), key=self._form)

    @override
    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        given = self._given
        return (given is None or given.shape == weight.shape) and super().contains(weight, atol)

    @override
    def excess(self, weight: Tensor) -> Tensor:
        size = weight.abs().flatten()
        return size.scatter(0, self._positions_for(weight), 0).view(weight.shape)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.forward(self.invert(weight))

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return weight.flatten().index_select(0, self._positions_for(weight))

    @override
    def adopt(self, weight: Tensor) -> None:
        assert self._rule is not None
        positions = pattern_for(self._rule, weight).positions.to(index_dtype(weight.numel()))
        super().adopt(weight)
        vars(self).update(self._arranged(positions.to("cpu" if weight.is_meta else weight.device)))
        self._origin, self._rule = Name(self._origin), None  # a rule may hold all edges of a graph

    @override
    def right_inverse(self, weight: Tensor) -> Tensor:
        x = super().right_inverse(weight)
        owner = asking_list() if is_registration() else None
        if owner is not None and self in owner.modules():
            owner.register_load_state_dict_pre_hook(load_together)  # type: ignore[no-untyped-call]
        return x

    @override
    def options(self) -> dict[str, object]:
        return {"mask": self._origin, "on_infeasible": self.on_infeasible, "product": self.product}

    @override
    def get_extra_state(self) -> Tensor:
        """The weight's sizes, then the positions of the kept entries: a new 1-D integer tensor; empty without mask."""
        if self.shape is None and self._given is None:
            return torch.empty(0, dtype=torch.int32, device="cpu")
        return pack(self._known_shape, self.positions)

    @override
    def set_extra_state(self, state: Any) -> None:
        """Load the mask of a checkpoint. Raises a `ValueError` if it is damaged or does not fit the stored values."""
        if self.shape is None and isinstance(state, Tensor) and state.shape == (0,):  # saved without a mask
            return
        positions = unpack(state, self._known_shape)
        if self._given is not None:  # not registered yet: there are no stored values that the mask must fit
            self._rule = self._origin = as_rule(Pattern(self._known_shape, positions.long()))
        elif positions.shape != self.stored_shape:
            raise ValueError(
                f"MaskedSparse needs a mask of {self.stored_shape.numel()} positions for the values it has. "
                f"Got {positions.numel()}. Load the mask together with its values, into the whole layer."
            )
        self._set_positions(positions)

    def _set_positions(self, positions: Tensor) -> None:
        """Replace the mask by positions from a checkpoint, which the caller has checked: sorted and in range."""
        vars(self).update(self._with_positions(positions.clone(), "loaded"))

    def _with_positions(self, positions: Tensor, origin: object) -> dict[str, object]:
        """A dict of the attributes that a mask of these sorted positions changes. `repr` shows ``origin`` as mask."""
        own, given = self.positions, positions.to(self.positions)
        return {} if torch.equal(given, own) else self._arranged(given) | {"_origin": origin}

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # The mask follows the module to its device, but dtype conversions and the meta device do not change it.
        if self._form is not None:
            own = self._form.device
            moved = fn(torch.empty(0, dtype=torch.int32, device=own)).device
            if moved != own and moved.type != "meta":
                vars(self).update(self._arranged(self.positions.to(moved)))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @override
    def _rearrange(self) -> None:
        vars(self).update(self._arranged(self.positions))

    def _arranged(self, positions: Tensor) -> dict[str, object]:
        """A dict of the attributes for these positions, with the product chosen for their device."""
        # The mask must outlive a block of inference mode, and must ignore the default device.
        with torch.inference_mode(False), torch.device("cpu"):
            own, shape = positions.clone() if positions.is_inference() else positions, self._known_shape
            form, chosen = form_of(shape, own, self.product)
            diagonal = on_diagonal(own, shape) if len(shape) == 2 else own[:0]
        return {"_form": form, "_chosen": chosen, "_stored_shape": own.shape, "_diagonal": diagonal}

    @property
    def _given(self) -> Pattern | None:
        """The mask if the user gave a tensor, not a rule; None after registration."""
        build = None if self._rule is None else self._rule.build
        return build.pattern if isinstance(build, Given) else None

    def _places(self) -> Tensor:
        """The positions of the kept entries, int32 or int64."""
        source = self._form or self._given
        _ = self._known_shape  # raises if there is no mask yet
        assert source is not None
        return source.positions

    def _positions_for(self, tensor: Tensor) -> Tensor:
        return self._places().to(tensor.device, torch.long)
