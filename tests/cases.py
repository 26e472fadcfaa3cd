"""The named table of cases for every law: a new parametrization is one row in KINDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Parametrization, Signed, ZeroDiagonal, masks, signs
from parametrizations.testing.subject import Subject

SHAPES = {"square": (4, 4), "tall": (5, 3), "wide": (3, 5), "single": (1, 1)}

OTHER_SHAPES = {"vector": (7,), "experts": (2, 3, 4), "convolution": (4, 3, 2, 2)}
"""For constraints on weights of any shape."""


def mixed_signs(shape: Sequence[int]) -> Tensor:
    """Free, positive and negative columns."""
    return torch.arange(shape[-1]) % 3 - 1


def _with_signs(choose: Callable[[Any], Any], shape: Any, **options: Any) -> Signed:
    return Signed(choose(shape), **options)


def _signed() -> Iterator[tuple[str, Callable[[Any], Parametrization]]]:
    for name in ("exp", "softplus"):
        form: Any = name
        yield f"Signed-structured-{form}", partial(_with_signs, lambda _: -1, map=form)
        yield f"Signed-positive-{form}", partial(_with_signs, lambda _: 1, map=form, on_infeasible="project")
        yield f"Signed-mixed-{form}", partial(_with_signs, mixed_signs, map=form)
    yield "Signed-as_is", lambda _: Signed(signs.as_is())


BATCHES = {name: OTHER_SHAPES[name] for name in ("experts", "convolution")}
"""Batches of matrices, with the batch first or last."""

KINDS: dict[str, Callable[[tuple[int, int]], Parametrization]] = {
    "Diagonal": lambda _: Diagonal(),
    "Diagonal-project": lambda _: Diagonal(on_infeasible="project"),
    "ZeroDiagonal": lambda _: ZeroDiagonal(),
    "ZeroDiagonal-project": lambda _: ZeroDiagonal(on_infeasible="project"),
    "NegExpDiagonal": lambda _: NegExpDiagonal(),
    "NegExpDiagonal-project": lambda _: NegExpDiagonal(on_infeasible="project"),
    "Diagonal-dense": lambda _: Diagonal(product="dense"),
    "ZeroDiagonal-structured": lambda _: ZeroDiagonal(product="replaced-diagonal"),
    "NegExpDiagonal-structured": lambda _: NegExpDiagonal(product="replaced-diagonal"),
    "MaskedSparse-structured": lambda shape: MaskedSparse(checkerboard(shape), product="strips"),
    "MaskedSparse-structured-csr": lambda shape: MaskedSparse(checkerboard(shape), product="csr"),
    "MaskedSparse-structured-strips": lambda _: MaskedSparse(masks.lower_triangular(1), product="strips"),
    "MaskedSparse-structured-blocks": lambda shape: MaskedSparse(equal_blocks(shape), product="strips"),
    "MaskedSparse": lambda shape: MaskedSparse(checkerboard(shape)),
    "MaskedSparse-project": lambda shape: MaskedSparse(checkerboard(shape), on_infeasible="project"),
    "MaskedSparse-random": lambda _: MaskedSparse(masks.random(density=0.4)),
    "MaskedSparse-magnitude": lambda _: MaskedSparse(masks.magnitude(density=0.4)),
    "MaskedSparse-triangular": lambda _: MaskedSparse(masks.lower_triangular()),
    "MaskedSparse-full": lambda shape: MaskedSparse(torch.ones(shape, dtype=torch.bool)),
    "MaskedSparse-empty": lambda shape: MaskedSparse(torch.zeros(shape, dtype=torch.bool)),
    **dict(_signed()),
}

OTHER_KINDS: dict[str, Callable[[tuple[int, ...]], Parametrization]] = {
    "MaskedSparse": lambda shape: MaskedSparse(every_third(shape)),
    "MaskedSparse-project": lambda shape: MaskedSparse(every_third(shape), on_infeasible="project"),
    "MaskedSparse-magnitude": lambda _: MaskedSparse(masks.magnitude(density=0.4)),
    "MaskedSparse-empty": lambda shape: MaskedSparse(torch.zeros(shape, dtype=torch.bool)),
    **dict(_signed()),
}

GATES = {"gates": (6, 3), "wide_gates": (4, 5)}
"""Two blocks of rows, one under another."""

ON_DIAGONALS = {"Diagonal": Diagonal, "ZeroDiagonal": ZeroDiagonal, "NegExpDiagonal": NegExpDiagonal}


def checkerboard(shape: tuple[int, int]) -> Tensor:
    rows, columns = torch.arange(shape[0]), torch.arange(shape[1])
    return (rows[:, None] + columns) % 2 == 0


def equal_blocks(shape: tuple[int, int]) -> Tensor:
    """Two blocks if both sides are even, else one."""
    blocks = 2 if shape[0] % 2 == shape[1] % 2 == 0 else 1
    rows, columns = torch.arange(shape[0]), torch.arange(shape[1])
    return (rows // (shape[0] // blocks))[:, None] == columns // (shape[1] // blocks)


def every_third(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape) % 3 == 1


def weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight with entries of both signs, the same at every call."""
    generator = torch.Generator().manual_seed(7)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=generator, dtype=wide, device="cpu").to(torch.get_default_device(), dtype)


def _dtypes(kind: str, made: Parametrization) -> tuple[torch.dtype, ...]:
    """Every dtype for the classes and their products, one dtype for variants with other options."""
    if kind.endswith(("-blocks", "-axes")):
        return tuple(dtype for dtype in (torch.float32, torch.bfloat16, torch.complex64) if dtype in made.dtypes)
    return (torch.float32,) if "-" in kind and "structured" not in kind else made.dtypes


def _of_blocks(kind: Any) -> Callable[[tuple[int, ...]], Parametrization]:
    return lambda _: kind(blocks=2)


def _of_axes(kind: Any) -> Callable[[tuple[int, ...]], Parametrization]:
    return lambda shape: kind(axes=(-2, -1) if len(shape) == 3 else (0, 1), blocks=1 if len(shape) == 3 else 2)


def _cases(kinds: Mapping[str, Callable[[Any], Parametrization]], shapes: Mapping[str, Any]) -> Iterator[Any]:
    for kind, make in kinds.items():
        for name, shape in shapes.items():
            for dtype in _dtypes(kind, make(shape)):
                label = f"{kind}-{name}-{str(dtype).removeprefix('torch.')}"
                yield label, Subject(make(shape), weight(shape, dtype))


CASES: dict[str, Subject] = dict(_cases(KINDS, SHAPES))
OTHER_CASES: dict[str, Subject] = {
    **dict(_cases({name: kind for name, kind in _signed() if "mixed" not in name}, {"scalar": ()})),
    **dict(_cases(OTHER_KINDS, OTHER_SHAPES)),
    **dict(_cases({f"{name}-blocks": _of_blocks(kind) for name, kind in ON_DIAGONALS.items()}, GATES)),
    **dict(_cases({f"{name}-axes": _of_axes(kind) for name, kind in ON_DIAGONALS.items()}, BATCHES)),
}
"""Weights of other shapes, and several diagonals in one weight. Laws alone run over them."""
