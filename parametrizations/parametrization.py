"""The contract that every parametrization keeps, and the base class that keeps most of it."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from parametrizations._admission import asked, is_finite, outside, require_choice, require_finite, require_kind
from parametrizations._names import require_free
from parametrizations._options import options_of
from parametrizations._products.choice import OWN, PLAIN, Explanation, Product
from parametrizations._products.places import Places
from parametrizations._torch.caller import asking_list, is_assignment, is_registration, is_transfer
from parametrizations._torch.owners import Owners
from parametrizations._torch.private import is_traced
from parametrizations._torch.sharding import is_sharded
from parametrizations._torch.shared_class import refuse_to_script

__all__ = ["COMPLEX", "FLOATING", "Infeasible", "Parametrization"]

Infeasible = Literal["raise", "project"]

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)


class Parametrization(nn.Module):
    """A set of matrices, described by a smooth map onto it from freely trainable numbers.

    A subclass says what the set is; this class does what all sets have in common: it adopts the weight
    that is there, checks what is assigned later, and refuses bad input before anything has changed.

    ================================  =================================================================
    a subclass writes                 promise
    ================================  =================================================================
    ``needs``                         the rule in words, as in "Diagonal needs every entry ... to be 0"
    ``forward(x) -> weight``          a plain dense tensor, differentiable, with the dtype of ``x``
    ``excess(weight) -> Tensor``      how far each entry is outside the set; real; 0 where it is inside
    ``project(weight) -> Tensor``     a member of the set: the weight itself if it is one
    ``invert(member) -> x``           ``forward(invert(member)) == member``; the default is ``member``
    ================================  =================================================================

    Where the map rounds, `rounding` says by how much. Where ``x`` has another shape than the weight,
    `stored_shape` says which. Where the set depends on the weight it is first shown, `adopt` learns it.
    What it learns, such as a vector of signs, is structure and no buffer: a plain attribute, used as
    ``self.signs.to(x)``, that travels through ``get_extra_state`` and ``set_extra_state`` (see CONTRIBUTING.md).

    Args:
        on_infeasible: What assigning a weight outside the set does, once registered: ``"raise"`` a
            `ValueError`, or ``"project"`` it. Registering always projects.
        product: How a fused layer multiplies: ``"auto"``, by the path that was measured to be fastest;
            ``"dense"``; ``"structured"``, without building the weight wherever that is possible; or one of
            ``products``, by name. See `explain` and `tune`.

    Raises:
        ValueError: If an option is none of its values.

    Example:
        >>> class Symmetric(Parametrization):
        ...     needs = "the weight to equal its transpose"
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return x.triu() + x.triu(1).mT
        ...     def excess(self, weight: Tensor) -> Tensor:
        ...         return (weight - weight.mT).abs()
        ...     def project(self, weight: Tensor) -> Tensor:
        ...         return self.forward(weight)
        >>> layer = nn.utils.parametrize.register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
        >>> torch.equal(layer.weight, layer.weight.mT)
        True
    """

    needs: str = "a weight in its set"
    dtypes: tuple[torch.dtype, ...] = FLOATING + COMPLEX
    products: tuple[Product, ...] = ()
    """The names of the ways to multiply that ``linear`` has beside the dense one, as ``product`` takes them."""
    selects: bool = False
    """Whether ``x`` holds some of the weight's entries as they are, so that filling ``x`` initialises them."""

    def __init__(self, *, on_infeasible: Infeasible = "raise", product: Product = "auto") -> None:
        super().__init__()
        require_choice(type(self).__name__, "on_infeasible", on_infeasible, ("raise", "project"))
        self.on_infeasible: Infeasible = on_infeasible
        self.shape: torch.Size | None = None
        self.product = product
        self._owners = Owners()

    __prepare_scriptable__ = refuse_to_script

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        require_free(self, name, value)
        super().__setattr__(name, value)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """The weight, ``(out, in)``, for what is stored: dense, differentiable, with the dtype of ``x``."""
        raise NotImplementedError(f"{type(self).__name__} needs a method forward(x).")

    def excess(self, weight: Tensor) -> Tensor:
        """How far each entry of ``weight``, ``(out, in)``, is outside the set; same shape, real."""
        raise NotImplementedError(f"{type(self).__name__} needs a method excess(weight).")

    def project(self, weight: Tensor) -> Tensor:
        """A member of the set for any finite ``weight``, ``(out, in)``; a member stays as it is."""
        raise NotImplementedError(f"{type(self).__name__} needs a method project(weight).")

    def invert(self, weight: Tensor) -> Tensor:
        """The stored tensor ``x`` of a member of the set; may share memory with ``weight``."""
        return weight

    def adopt(self, weight: Tensor) -> None:
        """Learn the set from the first weight shown, before it is projected."""
        self.shape = weight.shape

    def rounding(self, weight: Tensor) -> Tensor:
        """By how much, absolutely, storing may move each entry of a member; bit for bit by default."""
        return torch.zeros_like(weight.abs())

    @property
    def product(self) -> Product:
        """How a fused layer multiplies; may be set at any time."""
        return self._product

    @product.setter
    def product(self, product: Product) -> None:
        require_choice(type(self).__name__, "product", product, ("auto", "dense", *self.products))
        self._product = product
        if self.shape is not None:
            self._rearrange()

    def _rearrange(self) -> None:
        """Derive again what depends on ``product``."""

    @property
    def stored_shape(self) -> torch.Size:
        """Shape of the stored tensor ``x``; a `ValueError` before anything is registered."""
        return self._known_shape

    @property
    def _known_shape(self) -> torch.Size:
        """Shape of the weight, ``(out, in)``; a `ValueError` before anything is registered."""
        if self.shape is None:
            raise ValueError(
                f"{type(self).__name__} needs to know its weight. Got no weight yet. "
                f"Register it first: {self._recipe()}."
            )
        return self.shape

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The stored tensor for ``weight``: what PyTorch calls when registering and when assigning.

        A weight that is registered is adopted: projected onto the set. One that is assigned has to be in
        the set, or follows ``on_infeasible``. What was learned from the first weight, such as a mask, stays,
        also when the object is taken off and registered again.

        Args:
            weight: The dense matrix, ``(out, in)``.

        Returns:
            A fresh contiguous tensor that shares no memory with ``weight``.

        Raises:
            TypeError: If ``weight`` is no dense tensor of a supported dtype.
            ValueError: If it has the wrong shape, is not finite, or is outside the set; or if this
                object belongs to another tensor.

        Example:
            >>> from parametrizations import Diagonal
            >>> Diagonal().right_inverse(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
            tensor([1., 2.])
        """
        if self._owners.hold(self) and is_registration() and not is_transfer():
            raise ValueError(self._already_registered())
        self._check(weight)
        before = dict(vars(self))
        try:
            x = self.invert(self._admit(weight)).clone(memory_format=torch.contiguous_format)
        except Exception as error:
            vars(self).update(before)  # a weight that was refused claims nothing
            if isinstance(error, NotImplementedError):  # PyTorch would take it for "no inverse, use the weight"
                raise TypeError(f"{type(self).__name__} cannot start from this weight: {error}") from error
            raise
        owner = asking_list()
        if owner is not None:
            self._owners.add(owner)
        return x

    def contains(self, weight: Tensor, atol: float = 0.0) -> bool:
        """Whether ``weight`` is in the set.

        Args:
            weight: A tensor. One that could not be assigned, by its dtype, layout or shape, or since it is
                not finite, is not in the set.
            atol: How far outside an entry may be.

        Raises:
            TypeError: If ``weight`` is no tensor.
            ValueError: If it is on the meta device and has no values.

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
            raise TypeError(f"{type(self).__name__} needs a tensor to tell. Got {type(weight).__name__}.")
        if weight.is_meta:
            raise ValueError(
                f"{type(self).__name__} needs values to tell. Got a weight on the meta device, which has none."
            )
        if weight.layout is not torch.strided or weight.dtype not in self.dtypes or weight.dim() != 2:
            return False
        if self.shape not in (None, weight.shape) or not is_finite(weight):
            return False
        return not bool((self.excess(weight) > atol).any())

    def explain(self, x: Tensor) -> Explanation:  # noqa: ARG002
        """How `linear` multiplies with a stored tensor such as ``x``, and why."""
        return PLAIN if type(self).linear is Parametrization.linear else OWN

    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """``F.linear(input, forward(x), bias)``, without building the weight where that is cheaper.

        Args:
            input: ``(*, in)``.
            x: The stored tensor.
            bias: ``(out,)``, or None.

        Returns:
            ``(*, out)``.
        """
        return F.linear(input, self(x), bias)

    def places(self, x: Tensor) -> Places | None:  # noqa: ARG002
        """Where the weight has the entries that ``x`` holds as they are; None where ``x`` is something else.

        Parametrizations on top of this one may then act on ``x`` alone, by `on_entries`.
        """
        return None

    def on_entries(self, x: Tensor, places: Places) -> Tensor | None:  # noqa: ARG002
        """What ``forward`` makes of the entries of a weight that is 0 elsewhere, without building it.

        A fused layer then multiplies through the first parametrization's structure, whatever is on top of it.

        Args:
            x: The entries, ``(entries,)``.
            places: Where they are in the weight.

        Returns:
            The entries of ``forward`` at the same places; or None, where an entry depends on others, or where
            ``forward`` is not 0 at some other place. That may depend on the places, never on ``x``.
        """
        return None

    def options(self) -> dict[str, object]:
        """The options that this object was made with, as `extra_repr` shows them: kept under their own names."""
        return options_of(self)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """What `copy.deepcopy` does anyway, without the long way that it takes for each empty dictionary."""
        twin = memo[id(self)] = type(self).__new__(type(self))
        state: dict[str, object] = self.__getstate__()  # type: ignore[no-untyped-call]
        for name, value in state.items():
            empty = isinstance(value, dict | set) and not value
            vars(twin)[name] = type(value)() if empty else copy.deepcopy(value, memo)
        return twin

    @override
    def extra_repr(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self.options().items()]
        shape = None if self.shape is None else f"shape={tuple(self.shape)}, stored={self.stored_shape.numel()}"
        return ", ".join([*shown, shape or "not registered"])

    def _require_stored(self, x: Tensor) -> torch.Size:
        """The weight's shape, for a ``forward`` that stores another one; checks that ``x`` fits."""
        shape = self.shape
        usual = type(x) in (nn.Parameter, Tensor) and not is_traced()
        if shape is not None and usual and x.shape == self.stored_shape:
            return shape
        if type(x) not in (Tensor, nn.Parameter) and is_sharded(x):
            raise RuntimeError(
                f"{type(self).__name__} needs what it stores in one piece. Got a tensor that is sharded over "
                "processes. Read the weight between unshard() and reshard(), or gather the checkpoint."
            )
        if self.shape is None and x.dim() == 2:
            raise ValueError(self._has_to_come_first(x))
        if not is_traced() and x.shape != self.stored_shape:
            raise ValueError(
                f"{type(self).__name__} needs a stored tensor of shape {tuple(self.stored_shape)} "
                f"for a weight of shape {tuple(self._known_shape)}. Got shape {tuple(x.shape)}. "
                f"{self._has_to_come_first(x) if x.dim() == 2 else 'Pass what right_inverse returned.'}"
            )
        return self._known_shape

    def _admit(self, weight: Tensor) -> Tensor:
        adopting = is_registration() or (self.shape is None and not is_assignment())
        if self.shape is None:
            self.adopt(weight)
        if adopting or self.on_infeasible == "project" or weight.is_meta:
            return self.project(weight)
        excess = self.excess(weight)
        if bool((excess > 0).any()):
            raise ValueError(outside(type(self).__name__, self.needs, weight, excess))
        return weight

    def _check(self, weight: Tensor) -> None:
        require_kind(type(self).__name__, weight, self.dtypes)
        self._require_matrix(weight)
        require_finite(type(self).__name__, weight)

    def _require_matrix(self, weight: Tensor) -> None:
        """Refuse a weight that is no matrix, or has another shape than the one that was registered."""
        if weight.dim() != 2:
            raise ValueError(
                f"{type(self).__name__} needs a weight with 2 dimensions. Got {weight.dim()}, of shape "
                f"{tuple(weight.shape)}. Register it on a matrix, such as nn.Linear's weight."
            )
        if self.shape not in (None, weight.shape):
            raise ValueError(
                f"{type(self).__name__} needs a weight of shape {tuple(self._known_shape)}. "
                f"Got {tuple(weight.shape)}. {asked()} a weight of that shape; create a new object for another."
            )

    def _already_registered(self) -> str:
        return (
            f"{type(self).__name__} needs one object for each tensor. Got one that has been used for a tensor "
            f"of shape {tuple(self._known_shape)}. Create a new one: {self._recipe()}."
        )

    def _has_to_come_first(self, x: Tensor) -> str:
        return (
            f"{type(self).__name__} stores another shape than the weight's, or learns from it, so it needs to be the "
            f"first parametrization of its tensor. Got a matrix of shape {tuple(x.shape)} to start from. "
            "Register it first and the others on top of it; transfer it to a tensor that has none."
        )

    def _recipe(self) -> str:
        return f'register_parametrization(layer, "weight", {type(self).__name__}(...))'
