"""`dense_gradients`: for one pass, the gradient by the whole weight, of which a layer stores a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parametrizations._models.constrained import Slot
from parametrizations._models.layer import has_fused_forward
from parametrizations._models.matching import constrained_by
from parametrizations._models.ranks import wrapper_in
from parametrizations._products.operands import has_rows, rows_of
from parametrizations._torch.loops import forget
from parametrizations._torch.private import active_wrapper, are_transforms_active, contents
from parametrizations._torch.uncompiled import uncompiled

__all__ = ["DenseGradient", "dense_gradients"]


class DenseGradient:
    """The gradient by a whole weight, ``(out, in)``, computed when its rows are asked for: ``gradient[first:last]``.

    Kept are the inputs of the layer and the gradients of its outputs, or the sum of what PyTorch has computed, until
    this object is gone.

    Args:
        name: The weight's, in the plain model.
        like: What is stored for the weight: of its dtype, on its device.
        shape: The weight's.
    """

    def __init__(self, name: str, like: Tensor, shape: torch.Size) -> None:
        self.shape = shape
        self.name = name
        self.group: dist.ProcessGroup | None = None
        self._like = like.detach().new_empty(0)
        self._whole: Tensor | None = None
        self._factors: list[tuple[Tensor, object, Tensor]] = []

    def __getitem__(self, rows: slice) -> Tensor:
        """Some rows of the gradient, as a fresh tensor; averaged over the ranks, each of which has to ask for them.

        Raises:
            TypeError: If this is no slice of rows.
            RuntimeError: If no backward pass has reached the weight, or an input was changed in place since its use.
        """
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"A dense gradient needs rows, as in gradient[0:64]. Got {rows!r}. Take [:] for all.")
        if self._whole is None and not self._factors:
            raise RuntimeError(
                f"dense_gradients needs a forward pass with {self.name!r} and its backward pass inside of the block. "
                "Got none. Move both there; leave out a weight that takes no part in the loss."
            )
        first, last, _ = rows.indices(self.shape[0])
        return self._average(self._sum(first, max(first, last)))

    def add_whole(self, gradient: Tensor) -> None:
        """Add what autograd has computed for a weight that was built; a copy, since it may be what ``grad`` holds."""
        if self._whole is None:
            self._whole = self._like.new_zeros(self.shape)
        self._whole += gradient.detach()

    def add_factors(self, input: Tensor, before: object, gradient: Tensor) -> None:
        """Add one use of a weight that was not built.

        Args:
            input: ``(*, in)``.
            before: Its `contents` when it was used.
            gradient: The output's, ``(*, out)``; copied, since it may be what the bias has as its own.
        """
        self._factors.append((input, before, rows_of(gradient.detach()).clone()))

    def _sum(self, first: int, last: int) -> Tensor:
        total = self._like.new_zeros(last - first, self.shape[1])
        if self._whole is not None:
            total += self._whole[first:last]
        for input, before, gradient in self._factors:
            if contents(input) != before:
                raise RuntimeError(
                    f"dense_gradients needs the inputs of {self.name!r} as they were. Got some that were changed in "
                    "place since. Change them after the gradient is asked for, or give the layer a copy."
                )
            total.addmm_(gradient[:, first:last].mT.to(total), rows_of(input).to(total).conj())
        return total

    def _average(self, rows: Tensor) -> Tensor:
        if self.group is not None:
            dist.all_reduce(rows, group=self.group)
            rows /= dist.get_world_size(self.group)
        return rows


@contextmanager
def dense_gradients(
    model: nn.Module, patterns: str | Iterable[str] | None = None
) -> Iterator[dict[str, DenseGradient]]:
    """Also have the gradient by whole weights, for the passes inside of the block: what `masks.rigl` looks at.

    A layer that stores a part of its weight has gradients for that part alone. Inside of this block, the gradient by
    the whole weight is had beside them, added up over all uses of a layer and all passes, as gradients are. What
    training sees does not change. A fused layer keeps its inputs and the gradients of its outputs, and each strip of
    rows is computed when it is asked for; of a weight that is built anyway, in layers of any other kind, its gradient
    is kept. Under ``DistributedDataParallel`` the gradient is the average over the ranks, each of which has to ask for
    the same rows. Layers that are compiled run uncompiled. Gradients that `torch.amp.GradScaler` has scaled are scaled
    here, too.

    Args:
        model: Used as ever inside of the block, forward and backward; not changed afterwards.
        patterns: Whose gradients: one pattern of full plain names of constrained tensors, or several, such as the keys
            of the rules for `remask`; None for all. Together with their parametrizations: the gradient is by the weight
            that comes out.

    Yields:
        By name, the gradient of each weight, as `DenseGradient`: ``gradients["0.weight"][:]`` is all of it.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a pattern matches nothing that is constrained.

    Example:
        >>> from parametrizations import MaskedSparse, masks, register
        >>> model = register(nn.Sequential(nn.Linear(4, 3)), {"0.weight": MaskedSparse(masks.banded(0, 0))})
        >>> with dense_gradients(model, "*.weight") as gradients:
        ...     model(torch.ones(2, 4)).sum().backward()
        >>> gradients["0.weight"][:]
        tensor([[2., 2., 2., 2.],
                [2., 2., 2., 2.],
                [2., 2., 2., 2.]])
        >>> model[0].parametrizations.weight.original.grad
        tensor([2., 2., 2.])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"dense_gradients needs a model. Got {type(model).__name__}. Pass a torch.nn.Module.")
    slots = constrained_by("dense_gradients", model, patterns)
    wrapper = wrapper_in(model)
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        watched = [_Watched(slot, stack) for slot in slots]
        for one in watched:
            one.gradient.group = None if wrapper is None else wrapper.process_group
        yield {one.gradient.name: one.gradient for one in watched}


class _Watched:
    """One weight, and the hooks that see what reaches it."""

    blind = False
    """Whether this came along with a copy of the model, at which nobody looks."""

    def __init__(self, slot: Slot, stack: ExitStack) -> None:
        self.gradient = DenseGradient(slot.name, slot.first_stored, slot.shape)
        self._stack = stack
        self._builds = 0
        self._before = 0
        self._enter(slot.chain.register_forward_hook(self._see_weight))
        if has_fused_forward(slot.module) and slot.tensor_name == "weight":
            self._enter(slot.module.register_forward_pre_hook(self._see_start))
            self._enter(slot.module.register_forward_hook(self._see_output, prepend=True, with_kwargs=True))
        forget()

    def __deepcopy__(self, memo: dict[int, object]) -> _Watched:
        twin = type(self).__new__(type(self))
        twin.blind = True
        return twin

    def _enter(self, handle: Any) -> None:
        self._stack.callback(handle.remove)

    def _see_weight(self, chain: nn.Module, arguments: tuple[Any, ...], weight: Tensor) -> None:  # noqa: ARG002
        if not self.blind:
            self._builds += 1
            self._watch(weight, self.gradient.add_whole)

    def _see_start(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:  # noqa: ARG002
        if not self.blind:
            forget()  # so that a weight that this layer needs is built, and seen
            self._before = self._builds

    def _see_output(
        self,
        module: nn.Module,  # noqa: ARG002
        arguments: tuple[Any, ...],
        named: dict[str, Any],
        output: Tensor,
    ) -> None:
        if self.blind or self._builds > self._before:  # multiplied by a weight whose gradient is seen already
            return
        input: Tensor = arguments[0] if arguments else named["input"]
        if not has_rows(input):
            raise ValueError(
                f"dense_gradients needs dense inputs of {self.gradient.name!r}. Got one of layout {input.layout}. Pad "
                "it, or leave the layer out."
            )
        kept = input.detach()
        self._watch(output, partial(self.gradient.add_factors, kept, contents(kept)))

    def _watch(self, tensor: Tensor, add: Callable[[Tensor], None]) -> None:
        if tensor.requires_grad and not are_transforms_active():  # whose gradients are not this pass's
            wrapper = active_wrapper()
            if wrapper is not None:
                self.gradient.group = wrapper.process_group
            self._enter(tensor.register_hook(add))  # type: ignore[no-untyped-call]
