"""The contract of all parametrizations, and their base class."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from parametrizations import _checks as checks
from parametrizations._products.choice import OWN, PLAIN, Explanation, Product
from parametrizations._products.places import Places
from parametrizations._torch.caller import asking_list, is_assignment, is_registration, is_transfer
from parametrizations._torch.chains import Owners
from parametrizations._torch.parameters import is_sharded
from parametrizations._torch.private import is_traced, share_memory
from parametrizations._torch.shared_class import refuse_to_script

__all__ = ["COMPLEX", "FLOATING", "Infeasible", "Parametrization"]

Infeasible = Literal["raise", "project"]

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)

SHORTCUTS = {
    "forward": ("linear", "explain", "places", "on_entries", "invert_entries"),
    "linear": ("explain",),
    "project": ("_inverted_projection", "invert_entries"),
    "invert": ("_inverted_projection", "invert_entries"),
}
"""For each method, the methods used instead of it at less cost, and ``explain``, which describes these. If a subclass
overrides the method alone, they no longer fit, so `Parametrization.__init_subclass__` resets them."""


class Parametrization(nn.Module):
    """A set of matrices, described by a smooth map from free parameters onto the set.

    A subclass defines the set. This class does the work common to all sets: it adopts the present weight, checks later
    assignments, and rejects bad input before anything has changed.

    ================================  =================================================================
    a subclass writes                 promise
    ================================  =================================================================
    ``needs``                         the rule as text, as in "Diagonal needs every entry ... to be 0"
    ``forward(x) -> weight``          a dense tensor, not a subclass; differentiable; the dtype of ``x``
    ``excess(weight) -> Tensor``      how far each entry is outside the set; real; 0 for entries inside
    ``project(weight) -> Tensor``     a member of the set: a weight in the set is returned unchanged
    ``invert(member) -> x``           ``forward(invert(member)) == member``; by default ``member``
    ================================  =================================================================

    If the map rounds, `rounding` bounds the error. If ``x`` and the weight differ in shape, `stored_shape` is the shape
    of ``x``. If the set depends on the first weight, `adopt` learns the set. Learned values, such as a vector of signs,
    are structure, not a buffer: a plain attribute, used as ``self.signs.to(x)``, which ``get_extra_state`` and
    ``set_extra_state`` save and load (see CONTRIBUTING.md).

    A fused `nn.Linear` (see `fuse`) calls `linear`, which by default multiplies with ``forward(x)``. A subclass with a
    faster product overrides ``linear(input, x, bias)``; ``explain(x)`` then reports the product ``"own"``. A subclass
    with several products lists their names in ``products``, for the option ``product``, and overrides ``explain(x)``.

    Args:
        on_infeasible: What assigning a weight outside the set does: ``"raise"`` a `ValueError`, or ``"project"`` it.
            Registering always projects.
        product: How a fused `nn.Linear` (see `fuse`) multiplies: ``"auto"`` chooses by measured costs; `explain` lists
            the other names. It may be set at any time; `tune` selects the fastest.

    Raises:
        ValueError: If an option has an unknown value.

    Example:
        >>> from parametrizations import register
        >>> class Symmetric(Parametrization):
        ...     needs = "the weight to equal its transpose"
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return x.triu() + x.triu(1).mT
        ...     def excess(self, weight: Tensor) -> Tensor:
        ...         return (weight - weight.mT).abs()
        ...     def project(self, weight: Tensor) -> Tensor:
        ...         return self.forward(weight)
        >>> layer = register(nn.Linear(3, 3), {"weight": Symmetric()})
        >>> torch.equal(layer.weight, layer.weight.mT)
        True
    """

    needs: str = "a weight in its set"
    dtypes: tuple[torch.dtype, ...] = FLOATING + COMPLEX
    dims: int | None = 2
    """The number of dimensions of the weight; None for any number."""
    products: tuple[Product, ...] = ()
    """The products that ``linear`` can use besides ``"dense"``: further values of the option ``product``."""
    kinks: tuple[float, ...] = ()
    """The values of stored entries at which ``forward`` has no derivative, such as 0 for `abs`."""
    selects: bool = False
    """Whether ``x`` holds entries of the weight unchanged, so that filling ``x`` initialises them."""
    has_zeros: bool = False
    """Whether ``project`` only sets entries at fixed positions to 0. A later `Signed` keeps these zeros."""

    @checks.by_signature
    def __init__(self, *, on_infeasible: Infeasible = "raise", product: Product = "auto") -> None:
        super().__init__()
        self.on_infeasible: Infeasible = on_infeasible
        self.shape: torch.Size | None = None
        self.product = product
        self._owners = Owners()

    def __init_subclass__(cls, **named: Any) -> None:
        """For an overridden method, reset its inherited `SHORTCUTS` to the defaults.

        Inherited shortcuts would still compute the result of the old method.
        """
        super().__init_subclass__(**named)
        own = vars(cls)
        for method, shortcuts in SHORTCUTS.items():
            for name in shortcuts:
                if method in own and name not in own:
                    setattr(cls, name, vars(Parametrization)[name])

    __prepare_scriptable__ = refuse_to_script

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        checks.require_free(self, name, value)
        if name == "on_infeasible":
            checks.require_choice(type(self).__name__, name, value, ("raise", "project"))
        super().__setattr__(name, value)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """The weight, ``(out, in)``, from the stored tensor: dense, differentiable, with the dtype of ``x``."""
        raise NotImplementedError

    def excess(self, weight: Tensor) -> Tensor:
        """How far each entry of ``weight``, ``(out, in)``, is outside the set; same shape, real."""
        raise NotImplementedError

    def project(self, weight: Tensor) -> Tensor:
        """A member of the set for any finite ``weight``, ``(out, in)``; a member is returned unchanged."""
        raise NotImplementedError

    def invert(self, weight: Tensor) -> Tensor:
        """The stored tensor ``x`` of a member of the set; may share memory with ``weight``."""
        return weight

    def adopt(self, weight: Tensor) -> None:
        """Learn the set from the first weight, before the weight is projected."""
        self.shape = weight.shape

    @property
    def _structure(self) -> str:
        """For checkpoints, as text: the class, and the options that decide which weight a stored tensor stands for."""
        return type(self).__name__

    def with_axes(self, axes: tuple[int, int] | None) -> Self:  # noqa: ARG002
        """This constraint for a weight with these axes of outputs and inputs: a copy if it depends on axes, or self."""
        return self

    def rounding(self, weight: Tensor) -> Tensor:
        """For each entry of a member, a bound on the absolute error of ``forward(invert(member))``; 0 by default."""
        return torch.zeros_like(weight.abs())

    @property
    def product(self) -> Product:
        """The option ``product``: how a fused layer multiplies. It can be set at any time."""
        return self._product

    @product.setter
    def product(self, product: Product) -> None:
        checks.require_choice(type(self).__name__, "product", product, ("auto", "dense", *self.products))
        self._product = product
        if self.shape is not None:
            self._rearrange()

    def _rearrange(self) -> None:
        """Update everything that depends on ``product``, each time the option of a registered object is set."""

    @property
    def stored_shape(self) -> torch.Size:
        """The shape of the stored tensor ``x``. Raises a `ValueError` before registration."""
        return self._known_shape

    @property
    def _known_shape(self) -> torch.Size:
        """The shape of the weight, ``(out, in)``. Raises a `ValueError` before registration."""
        if self.shape is None:
            raise ValueError(
                f"{type(self).__name__} needs to know its weight. Got no weight yet. Register it first: "
                f'register(model, {{"layer.weight": {type(self).__name__}(...)}}), and read the attached copy, '
                "layer.parametrizations.weight[0]."
            )
        return self.shape

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The stored tensor for ``weight``. PyTorch calls this on registration and on assignment.

        Registering projects the weight onto the set. An assigned weight must be in the set; otherwise
        ``on_infeasible`` applies. Structure learned from the first weight, such as a mask, stays in this object, even
        if the object is removed and registered again.

        Args:
            weight: The dense matrix, ``(out, in)``.

        Returns:
            A fresh contiguous tensor that shares no memory with ``weight``.

        Raises:
            TypeError: If ``weight`` is not a dense tensor of a supported dtype.
            ValueError: If it has the wrong shape, is not finite, or is outside the set; or if this object belongs to
                another tensor.

        Example:
            >>> from parametrizations import Diagonal
            >>> Diagonal().right_inverse(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
            tensor([1., 2.])
        """
        self._require_complete()
        if self._owners.lists(self) and is_registration() and not is_transfer():
            raise ValueError(
                f"{type(self).__name__} needs one object for each tensor. Got one already used for a tensor of shape "
                f"{tuple(self._known_shape)}. Create a new one: {type(self).__name__}(...)."
            )
        self._check(weight)
        before = dict(vars(self))
        try:
            x = self._unshared(self._stored_for(weight), weight)
        except Exception as error:
            vars(self).update(before)  # restores the attributes from before the call
            if isinstance(error, NotImplementedError):  # PyTorch would read it as "no inverse, use the weight"
                raise TypeError(
                    f"{type(self).__name__} cannot compute the stored tensor of this weight: {error}"
                ) from error
            if isinstance(error, RuntimeError):
                raise ValueError(
                    f"{type(self).__name__} cannot start from a weight of shape {tuple(weight.shape)}. Its project or "
                    f"invert failed ({error}). Override adopt(weight) to refuse the shapes that it does not support."
                ) from error
            raise
        if (owner := asking_list()) is not None:
            self._owners.add(owner)
        return x

    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        """Whether ``weight`` is in the set.

        Args:
            weight: A tensor, ``(out, in)``. With an unsupported dtype, layout or shape, or entries that are not finite,
                it is not in the set.
            atol: The largest permitted `excess` of an entry.

        Returns:
            Whether no entry has an `excess` above ``atol``.

        Raises:
            TypeError: If ``weight`` is not a tensor.
            ValueError: If it is on the meta device.

        Example:
            >>> from parametrizations import ZeroDiagonal, register
            >>> layer = register(nn.Linear(2, 2), {"weight": ZeroDiagonal()})
            >>> zero_diagonal = layer.parametrizations.weight[0]
            >>> zero_diagonal.contains(layer.weight), zero_diagonal.contains(torch.eye(2))
            (True, False)
            >>> zero_diagonal.contains(1e-6 * torch.eye(2), atol=1e-5)
            True
        """
        if not isinstance(weight, Tensor):
            raise TypeError(f"{type(self).__name__} needs a tensor in contains. Got {type(weight).__name__}.")
        if weight.is_meta:
            raise ValueError(f"{type(self).__name__} needs values in contains. Got a weight on the meta device.")
        if weight.layout is not torch.strided or weight.dtype not in self.dtypes or not self._has_dims(weight):
            return False
        if self.shape not in (None, weight.shape) or not checks.is_finite(weight):
            return False
        return not bool((self._checked_excess(weight) > atol).any())

    def explain(self, x: Tensor) -> Explanation:  # noqa: ARG002
        """The product that `linear` uses for a stored tensor such as ``x``, and the reason."""
        return PLAIN if type(self).linear is Parametrization.linear else OWN

    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """``F.linear(input, forward(x), bias)``, without the dense weight if this is faster.

        Args:
            input: ``(*, in)``.
            x: The stored tensor.
            bias: ``(out,)``, or None.

        Returns:
            ``(*, out)``.
        """
        return F.linear(input, self(x), bias)

    def places(self, x: Tensor) -> Places | None:  # noqa: ARG002
        """The positions of the entries of ``x`` in the weight, or None if ``x`` does not hold entries of the weight.

        With these positions, later parametrizations of the chain can act on ``x`` alone, by `on_entries`.
        """
        return None

    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:  # noqa: ARG002
        """The entries of ``forward(matrix)``, for a matrix with the given entries and zeros elsewhere.

        With these entries, a fused layer uses the product of the first parametrization of the chain.

        Args:
            x: The entries, ``(entries,)``.
            places: Their positions in the matrix.

        Returns:
            The entries of ``forward(matrix)`` at the same positions. None if an entry depends on other entries, or if
            ``forward(matrix)`` is not 0 elsewhere. Whether the result is None may depend on positions, never on ``x``.
        """
        return None

    def invert_entries(self, entries: Tensor, places: Places) -> Tensor | None:  # noqa: ARG002
        """The entries of ``invert(project(weight))``, for a weight with the given entries and zeros elsewhere.

        With these entries, ``reset_parameters`` and `remask` do not need the dense weight. Arguments are those of
        `on_entries`.

        Returns:
            The tensor ``x`` for which ``on_entries(x, places)`` returns the projected entries. None if `on_entries`
            returns None for these ``places``, and by default.
        """
        return None

    def options(self) -> dict[str, object]:
        """The options of this object by name, for `extra_repr`. Each is an attribute."""
        return checks.options_of(self)

    @override
    def extra_repr(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self.options().items()]
        is_first = all(owner[0] is self for owner in self._owners.lists(self))
        stored = f", stored={self.stored_shape.numel()}" if self.shape is not None and is_first else ""
        shape = None if self.shape is None else f"shape={tuple(self.shape)}{stored}"
        return ", ".join([*shown, shape or "not registered"])

    def _require_complete(self) -> None:
        """Refuse an object whose class lacks a method, or did not call ``super().__init__()``."""
        name, base = type(self).__name__, Parametrization
        if "_owners" not in vars(self):
            raise TypeError(f"{name} needs super().__init__(), called first in its __init__. Got none.")
        needed = ("forward", "excess", "project")
        missing = [method for method in needed if getattr(type(self), method) is getattr(base, method)]
        if missing:
            raise TypeError(
                f"{name} needs methods forward(x), excess(weight) and project(weight). Got no {', no '.join(missing)}. "
                f"Write def {missing[0]}(self, {'x' if missing[0] == 'forward' else 'weight'}): ..."
            )

    def _require_stored(self, x: Tensor) -> torch.Size:
        """Refuse a sharded ``x`` or a wrong shape, and return the weight's shape; for maps that change the shape."""
        shape = self.shape
        usual = type(x) in (nn.Parameter, Tensor) and not is_traced()
        if shape is not None and usual and x.shape == self.stored_shape:
            return shape
        if type(x) not in (Tensor, nn.Parameter) and is_sharded(x):
            raise RuntimeError(
                f"{type(self).__name__} needs its stored tensor in one piece. Got a tensor sharded over "
                "processes. Read the weight between unshard() and reshard(), or gather the checkpoint."
            )
        if self.shape is None and x.dim() != 1:
            raise ValueError(self._has_to_come_first(x))
        if not is_traced() and x.shape != self.stored_shape:
            raise ValueError(
                f"{type(self).__name__} needs a stored tensor of shape {tuple(self.stored_shape)} "
                f"for a weight of shape {tuple(self._known_shape)}. Got shape {tuple(x.shape)}. "
                f"{self._has_to_come_first(x) if x.dim() != 1 else 'Pass what right_inverse returned.'}"
            )
        return self._known_shape

    @property
    def _is_own(self) -> bool:
        """Whether the class of the object itself, not only a base class, is from this library.

        Such a class is tested, so it needs fewer checks and copies.
        """
        return type(self).__module__.startswith("parametrizations.")

    def _stored_for(self, weight: Tensor) -> Tensor:
        adopting = is_registration() or (self.shape is None and not is_assignment())
        if self.shape is None:
            self.adopt(weight)
            if self.shape is None:
                raise TypeError(f"{type(self).__name__} needs its adopt to call super().adopt(weight). Got no call.")
        if adopting or self.on_infeasible == "project" or weight.is_meta:
            return self._inverted_projection(weight)
        excess = self._checked_excess(weight)
        if bool((excess > 0).any()):
            raise ValueError(checks.outside(type(self).__name__, self.needs, weight, excess))
        return self.invert(weight)

    def _checked_excess(self, weight: Tensor) -> Tensor:
        excess: Any = self.excess(weight)
        if not isinstance(excess, Tensor) or not excess.is_floating_point() or excess.shape != weight.shape:
            got = (
                f"{excess.dtype} of shape {tuple(excess.shape)}"
                if isinstance(excess, Tensor)
                else type(excess).__name__
            )
            raise TypeError(
                f"{type(self).__name__} needs excess(weight) to return real floats of shape {tuple(weight.shape)}. Got "
                f"{got}. Return the distance of each entry from the set, such as (weight - self.project(weight)).abs()."
            )
        return excess

    def _inverted_projection(self, weight: Tensor) -> Tensor:
        """``invert(project(weight))``. A subclass can override it to save memory."""
        ignores_others = self.selects and self._is_own  # this library's invert reads only entries that project keeps
        return self.invert(weight if ignores_others else self.project(weight))

    def _check(self, weight: Tensor) -> None:
        checks.require_kind(type(self).__name__, weight, self.dtypes)
        self._require_kind_of_stored(weight)
        self._require_matrix(weight)
        checks.require_finite(type(self).__name__, weight)

    def _require_kind_of_stored(self, weight: Tensor) -> None:
        """Refuse an assigned weight of another dtype or on another device than the stored tensor."""
        owner = asking_list() if is_assignment() else None
        stored = getattr(owner, "original", weight)
        if owner is not None and owner[0] is self and (weight.dtype, weight.device) != (stored.dtype, stored.device):
            raise ValueError(
                f"{type(self).__name__} needs a weight of {stored.dtype} on {stored.device}. Got {weight.dtype} on "
                f"{weight.device}. Assign value.to(layer.weight)."
            )

    def _unshared(self, x: Tensor, weight: Tensor) -> Tensor:
        """Check the stored tensor ``x``, and return it contiguous, without memory shared with ``weight``."""
        self._require_stored_tensor(x)
        if not self._is_own and is_registration():
            self._require_same_kind(x, weight)
        x = x.contiguous()
        return x.clone() if not self._is_own or share_memory(x, weight) else x

    def _require_same_kind(self, x: Tensor, weight: Tensor) -> None:
        """Refuse a ``forward(x)`` with another shape or dtype than ``weight``.

        PyTorch's error advises an option, ``unsafe=True``, that `register` lacks.
        """
        with torch.no_grad():
            given: Any = self(x)
        if not isinstance(given, Tensor) or (given.shape, given.dtype) != (weight.shape, weight.dtype):
            is_tensor = isinstance(given, Tensor)
            got = f"{given.dtype} of shape {tuple(given.shape)}" if is_tensor else type(given).__name__
            advice = "Expand or convert the result." if is_tensor else "Is a return missing?"
            raise ValueError(
                f"{type(self).__name__} needs forward(x) to return a tensor of {weight.dtype} and of the weight's "
                f"shape, {tuple(weight.shape)}. Got {got}. {advice}"
            )

    def _require_stored_tensor(self, x: Tensor) -> None:
        """Refuse a result of ``invert`` that is not a tensor of `stored_shape`."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{type(self).__name__} needs project(weight) and invert(member) to return tensors. Got "
                f"{type(x).__name__}. Is a return missing?"
            )
        declared: Any = self.stored_shape
        if x.shape != declared:
            got = tuple(declared) if isinstance(declared, tuple) else type(declared).__name__
            raise ValueError(
                f"{type(self).__name__} needs a property stored_shape with the shape of its stored tensor. Got "
                f"{got} for a stored tensor of shape {tuple(x.shape)}. project(weight) has to keep the shape, and "
                "invert(member) to return a tensor of stored_shape."
            )

    def _require_matrix(self, weight: Tensor) -> None:
        """Refuse a weight without `dims` dimensions (None: any), or of another shape than the registered weight."""
        if self.shape not in (None, weight.shape):
            raise ValueError(
                f"{type(self).__name__} needs a weight of shape {tuple(self._known_shape)}. "
                f"Got {tuple(weight.shape)}. {checks.asked()} a weight of that shape; create a new object for another."
            )
        if not self._has_dims(weight):
            advice = "Register it on a matrix, such as nn.Linear's weight"
            if hasattr(self, "axes") and weight.dim() > 2:
                advice = "Pass its axes of outputs and inputs, such as axes=(-2, -1)"
            elif not self._is_own:
                advice += f", or set dims in {type(self).__name__}; None takes any number"
            raise ValueError(
                f"{type(self).__name__} needs a weight with {self.dims} dimensions. Got {weight.dim()}, of shape "
                f"{tuple(weight.shape)}. {advice}."
            )

    def _has_dims(self, weight: Tensor) -> bool:
        return self.dims in (None, weight.dim())

    def _has_to_come_first(self, x: Tensor) -> str:
        name = type(self).__name__
        return (
            f"{name} needs to be the first parametrization of its tensor: only the first may store another shape than "
            f"the weight's. Got a tensor of shape {tuple(x.shape)}. Attach the parametrization with register, first in "
            f'the list: register(model, {{"layer.weight": [{name}(...), ...]}}). If the tensor already has constraints,'
            " bake the layer before."
        )
