"""`dense_gradients`: the gradient with respect to the full weight, for layers that store a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from parametrizations._models.constrained import Slot
from parametrizations._models.layer import fused_holders
from parametrizations._models.matching import Key, constrained_by
from parametrizations._models.sizes import require_present
from parametrizations._products.operands import has_rows, rows_of
from parametrizations._torch.loops import forget
from parametrizations._torch.private import active_wrapper, are_transforms_active, contents
from parametrizations._torch.transforms import uncompiled


class _ByName(dict[str, "DenseGradient"]):
    def __missing__(self, name: str) -> NoReturn:
        raise KeyError(
            f"dense_gradients needs the name of a constrained weight. Got {name!r}. The names are "
            f"{', '.join(map(repr, self))}. Other parameters have grad."
        )


class DenseGradient:
    """A gradient of `dense_gradients`, of ``shape`` ``(out, in)``: ``gradient[first:last]`` computes rows.

    It is the gradient with respect to the full weight ``name``. The object keeps inputs of the layer and gradients of
    its outputs. If a forward pass uses the dense weight, the gradient of the dense weight is added to one sum instead.
    """

    def __init__(self, slot: Slot) -> None:
        self.name, self.shape = slot.name, slot.shape
        self.group: torch.distributed.ProcessGroup | None = None
        self._like = slot.first_stored.detach().new_empty(0)
        self._whole: Tensor | None = None
        self._factors: list[tuple[Tensor, object, Tensor]] = []

    def __getitem__(self, rows: slice) -> Tensor:
        """Rows of the gradient, as a new tensor. Several ranks must all ask for the same rows, and get the average.

        Raises:
            TypeError: If ``rows`` is not a slice without a step.
            RuntimeError: If no backward pass reached the weight, or an input was changed in place after its use.
        """
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"DenseGradient needs a slice of rows: gradient[0:64]. Got {rows!r}. Take [:] for all.")
        if self._whole is None and not self._factors:
            raise RuntimeError(
                f"dense_gradients needs a forward pass with {self.name!r} and its backward pass inside the block. "
                "Got none. Move both there; leave out a weight that does not affect the loss."
            )
        first, last, _ = rows.indices(self.shape[0])
        total = self._sum(first, max(first, last))
        if self.group is not None:
            torch.distributed.all_reduce(total, group=self.group)
            total /= torch.distributed.get_world_size(self.group)
        return total

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"DenseGradient has no attribute {name!r}. Use the tensor gradient[:].")

    def add_whole(self, gradient: Tensor) -> None:
        """Add a gradient of the dense weight. It is copied, since it may be the ``grad`` of a parameter."""
        if self._whole is None:
            self._whole = self._like.new_zeros(self.shape)
        self._whole += gradient.detach()

    def add_factors(self, input: Tensor, before: object, gradient: Tensor) -> None:
        """Add one use: the input ``(*, in)``, and the gradient of the output, ``(*, out)``.

        ``before``: the `contents` of the input at the forward pass, to detect a later change in place.
        """
        self._factors.append((input, before, rows_of(gradient.detach()).clone()))  # it may be the `grad` of the bias

    def _sum(self, first: int, last: int) -> Tensor:
        total = self._like.new_zeros(last - first, *self.shape[1:])
        if self._whole is not None:
            total += self._whole[first:last]
        for input, before, gradient in self._factors:
            if contents(input) != before:
                raise RuntimeError(
                    f"dense_gradients needs the inputs of {self.name!r} unchanged. Got inputs changed in place. "
                    "Change them after reading the gradient, or give the layer a copy."
                )
            total.addmm_(gradient[:, first:last].mT.to(total), rows_of(input).to(total).conj())
        return total


@contextmanager
def dense_gradients(
    model: nn.Module, patterns: Key | Iterable[Key] | None = None
) -> Iterator[dict[str, DenseGradient]]:
    """Collect the gradients with respect to full weights, for all passes inside the block; `masks.rigl` needs them.

    A layer that stores a part of its weight has gradients for this part only. Inside the block, the gradient with
    respect to the full weight is summed over all uses and passes. Training does not change. A fused layer keeps its
    inputs and the gradients of its outputs, and computes rows on request; other layers keep the full gradient. Under
    ``DistributedDataParallel`` rows are averaged over all ranks, which must ask for the same rows. Compiled layers run
    uncompiled. `torch.amp.GradScaler` scales this gradient, too.

    Args:
        model: The model of the passes inside the block; unchanged afterwards.
        patterns: One or several keys, as in the rules for `remask`: a full name in the plain model, a pattern of such
            names, or a class of layers. None for all. The gradient is with respect to the weight after all its
            parametrizations.

    Yields:
        A dictionary from names to `DenseGradient` objects: ``gradients["0.weight"][:]`` is the full gradient.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a pattern does not match a constrained tensor.

    Example:
        >>> from parametrizations import MaskedSparse, masks, register
        >>> model = register(nn.Sequential(nn.Linear(4, 1)), {"0.weight": MaskedSparse(masks.banded(0, 0))})
        >>> with dense_gradients(model, "*.weight") as gradients:
        ...     model(torch.ones(2, 4)).sum().backward()
        >>> gradients["0.weight"][:]
        tensor([[2., 2., 2., 2.]])
        >>> model[0].parametrizations.weight.original.grad
        tensor([2.])
    """
    slots = constrained_by("dense_gradients", model, patterns)
    require_present(slots, "dense_gradients", model)
    with uncompiled(), ExitStack() as stack:
        yield _ByName({slot.name: _Watch(slot, stack).gradient for slot in slots})


class _Watch:
    """The hooks of one weight. In a copy of the model they do nothing."""

    _stack: Any = None

    def __init__(self, slot: Slot, stack: ExitStack) -> None:
        self.gradient = DenseGradient(slot)
        self._stack, self._is_materialised = stack, False
        stack.enter_context(slot.chain.register_forward_hook(self._see_weight))
        for module in fused_holders(slot):
            stack.enter_context(module.register_forward_pre_hook(self._see_start))
            stack.enter_context(module.register_forward_hook(self._see_output, prepend=True, with_kwargs=True))
        forget()

    def __deepcopy__(self, memo: dict[int, object]) -> _Watch:
        return _Watch.__new__(_Watch)

    def _see_weight(self, chain: nn.Module, inputs: object, weight: Tensor) -> None:  # noqa: ARG002
        if self._stack is not None:
            self._is_materialised = True
            self._add(weight, self.gradient.add_whole)

    def _see_start(self, layer: nn.Module, inputs: object) -> None:  # noqa: ARG002
        if self._stack is not None:
            forget()  # the hooks would not see a memoised weight
            self._is_materialised = False

    def _see_output(
        self,
        layer: nn.Module,  # noqa: ARG002
        inputs: Any,
        named: dict[str, Tensor],
        output: Tensor,
    ) -> None:
        if self._stack is None or self._is_materialised:  # a copied model; or the dense weight's gradient is enough
            return
        input: Tensor = inputs[0] if inputs else named["input"]
        if not has_rows(input):
            raise ValueError(
                f"dense_gradients needs dense inputs of {self.gradient.name!r}. Got one of layout {input.layout}. Pad "
                "it, or leave the layer out."
            )
        kept = input.detach()
        self._add(output, partial(self.gradient.add_factors, kept, contents(kept)))

    def _add(self, tensor: Tensor, add: Callable[[Tensor], None]) -> None:
        # A gradient inside `torch.func` does not belong to the backward pass of the user.
        if tensor.requires_grad and not are_transforms_active():
            self.gradient.group = getattr(active_wrapper(), "process_group", self.gradient.group)
            self._stack.enter_context(tensor.register_hook(add))  # type: ignore[no-untyped-call]
