"""Random constraints: the source text of each, and the property that its mask must have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import parametrizations
from tools.campaign.formulas import Step

__all__ = ["Constraint", "chain", "make"]

Fits = Callable[[Tensor, Tensor], bool]
"""Whether a mask is right for the weight that the rule was shown."""


@dataclass(frozen=True)
class Signs:
    """The signs of a constraint for a weight, its map, and the text of other signs of the same kind."""

    of: Callable[[Tensor], Tensor]
    map: str
    again: str


@dataclass(frozen=True)
class Constraint:
    """A constraint to attach, built by evaluating ``text``."""

    kind: str
    text: str
    projects: bool
    fits: Fits | None = None
    blocks: int = 1
    signs: Signs | None = None

    def step(self, made: Any, weight: Tensor, earlier: Sequence[Step]) -> Step:
        """The expected step for the attached object. A rule may draw any mask that has the required property."""
        mask = None
        if self.fits is not None:
            mask = made.mask
            assert self.fits(mask, weight), f"{self.text} made a wrong mask for a weight of shape {weight.shape}"
        step = Step(self.kind, self.projects, weight.shape, mask, self.blocks)
        if self.signs is None:
            return step
        sign = self.signs.of(weight).to(torch.int8).expand(weight.shape)
        for one in earlier:
            sign = torch.where(one.keeps, sign, 0)
        return replace(step, sign=sign, map=self.signs.map, again=self.signs.again)


def make(constraint: Constraint) -> nn.Module:
    made: nn.Module = eval(constraint.text, {**vars(parametrizations), "torch": torch})
    return made


def chain(random: Random, shape: torch.Size, there: list[str]) -> list[Constraint]:
    """One to three constraints to register on top of the present ones; an empty list if there is none left."""
    first = [] if there else ["Diagonal", "MaskedSparse", "MaskedSparse"]
    onto = [kind for kind in ("ZeroDiagonal", "NegExpDiagonal") if kind not in there]
    if len(shape) != 2:
        first, onto = first[1:], []
    alone = [] if "Signed" in there else ["Signed"]
    if not first + onto + alone:
        return []
    kinds = [random.choice(first + onto + alone)]
    if random.random() < 0.3 and onto:
        kinds += [kind for kind in random.sample(onto, 1) if kind not in kinds]
    if random.random() < 0.3 and "NegExpDiagonal" not in [*there, *kinds]:
        kinds += [kind for kind in alone if kind not in kinds]
    return [_constraint(random, kind, shape) for kind in kinds]


def _constraint(random: Random, kind: str, shape: torch.Size) -> Constraint:
    mask, fits = _mask(random, shape) if kind == "MaskedSparse" else ("", None)
    signs = None
    if kind == "Signed":
        mask, signs = _signs(random, shape)
    divisors = [count for count in (2, 3, 4) if len(shape) == 2 and shape[0] % count == 0]
    blocks = random.choice([1, 1, *divisors]) if kind.endswith("Diagonal") else 1
    projects = random.random() < 0.3
    # A layer without inputs has nothing to multiply.
    ways = ["auto", "dense", *getattr(parametrizations, kind).products]
    product = random.choice(ways) if shape.numel() else "auto"
    options = [mask] if mask else []
    options += ['on_infeasible="project"'] if projects else []
    options += [f'product="{product}"'] if product != "auto" else []
    options += [f"blocks={blocks}"] if blocks > 1 else []
    options += [f'map="{signs.map}"'] if signs is not None else []
    return Constraint(kind, f"{kind}({', '.join(options)})", projects, fits, blocks, signs)


def _signs(random: Random, shape: torch.Size) -> tuple[str, Signs]:
    """Signs as the text of an argument, and the signs for a weight."""
    map, number = random.choice(["exp", "softplus"]), random.choice([1, -1])
    drawn = [random.choice([1, -1, 0]) for _ in range(shape[-1])] if shape else [number]
    listed = f"torch.tensor({drawn}, dtype=torch.int64)" if shape else str(number)
    made: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
        (str(number), str(number), lambda _: torch.tensor(number)),
        (listed, f"-{listed}" if shape else listed, lambda _: torch.tensor(drawn if shape else number)),
        ("signs.as_is()", "signs.as_is()", lambda weight: torch.where(weight.real < 0, -1, 1)),
        ("lambda weight: weight.real.sign()", "signs.as_is()", lambda weight: weight.real.sign()),
    ]
    if len(shape) == 2:
        share = random.choice([0.0, 0.25, 0.5, 1.0])
        positive = round(share * shape[1])
        dale = torch.tensor([1] * positive + [-1] * (shape[1] - positive), dtype=torch.int64)
        made.append((f"signs.dale({share})", "signs.dale(0.5, shuffle=True)", lambda _: dale))
    text, again, of = random.choice(made)
    return text, Signs(of, map, again)


def _mask(random: Random, shape: torch.Size) -> tuple[str, Fits]:
    of_any_shape: list[Callable[..., tuple[str, Fits]]] = [_tensor, _random, _magnitude]
    of_matrices: list[Callable[..., tuple[str, Fits]]] = [
        _banded,
        _lower,
        _blocks,
        _n_of_m,
        _edges,
        _autoregressive,
    ]
    return random.choice(of_any_shape + of_matrices if len(shape) == 2 else of_any_shape)(random, *shape)


def _same(expected: Tensor) -> Fits:
    return lambda mask, _: torch.equal(mask, expected)


def _where(rows: int, columns: int, kept: Callable[[int, int], bool]) -> Fits:
    """The mask that a condition on row and column describes."""
    listed = [[kept(row, column) for column in range(columns)] for row in range(rows)]
    return _same(torch.tensor(listed, dtype=torch.bool).view(rows, columns))


def _tensor(random: Random, *shape: int) -> tuple[str, Fits]:
    seed, share = random.randrange(1000), random.choice([0.0, 0.1, 0.5, 1.1])
    text = f"torch.rand({shape}, generator=torch.Generator().manual_seed({seed})) < {share}"
    sparse = random.choice(["", "", ".to_sparse()", ".float().to_sparse()"])
    return f"({text}){sparse}", _same(eval(text, {"torch": torch}))


def _random(random: Random, *_: int) -> tuple[str, Fits]:
    share, seed = random.choice([0.02, 0.1, 0.4, 1.0]), random.randrange(1000)
    text = f"masks.random(density={share}, generator=torch.Generator().manual_seed({seed}))"
    return text, lambda mask, weight: int(mask.sum()) == round(share * weight.numel())


def _magnitude(random: Random, *_: int) -> tuple[str, Fits]:
    share = random.choice([0.02, 0.1, 0.4, 1.0])

    def largest(mask: Tensor, weight: Tensor) -> bool:
        kept, dropped = weight[mask].abs(), weight[~mask].abs()
        right = kept.numel() == round(share * weight.numel())
        return right and (not kept.numel() or not dropped.numel() or bool(kept.min() >= dropped.max()))

    return f"masks.magnitude(density={share})", largest


def _banded(random: Random, rows: int, columns: int) -> tuple[str, Fits]:
    lower, upper = random.randrange(4), random.randrange(4)
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    return f"masks.banded({lower}, {upper})", _same((column - row <= upper) & (row - column <= lower))


def _lower(random: Random, rows: int, columns: int) -> tuple[str, Fits]:
    diagonal = random.choice([0, 0, -1, 2])
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    return f"masks.lower_triangular({diagonal})", _same(column - row <= diagonal)


def _blocks(random: Random, rows: int, columns: int) -> tuple[str, Fits]:
    blocks = random.choice([count for count in range(1, 9) if rows % count == 0 and columns % count == 0])
    kept = torch.zeros(rows, columns, dtype=torch.bool)
    for row, column in zip(kept.chunk(blocks), range(blocks), strict=False):
        row[:, column * columns // blocks : (column + 1) * columns // blocks] = True
    return f"masks.block_diagonal({blocks})", _same(kept)


def _n_of_m(random: Random, _: int, columns: int) -> tuple[str, Fits]:
    m = random.choice([count for count in range(1, 9) if columns % count == 0])
    n = random.randint(1, m)

    def largest(mask: Tensor, weight: Tensor) -> bool:
        groups, sizes = mask.reshape(-1, m), weight.abs().reshape(-1, m)
        kept = torch.where(groups, sizes, torch.inf).amin(1)
        dropped = torch.where(groups, -torch.inf, sizes).amax(1)
        return bool((groups.sum(1) == n).all()) and bool((kept >= dropped).all())

    return f"masks.n_of_m({n}, {m})", largest


def _edges(random: Random, rows: int, columns: int) -> tuple[str, Fits]:
    count = random.randrange(6) if rows and columns else 0
    pairs = [(random.randrange(columns), random.randrange(rows)) for _ in range(count)]
    kept = torch.zeros(rows, columns, dtype=torch.bool)
    for source, target in pairs:
        kept[target, source] = True
    as_index = f"masks.from_edge_index(torch.tensor({pairs}).T)"
    return as_index if pairs and random.random() < 0.5 else f"masks.from_edges({pairs})", _same(kept)


def _autoregressive(random: Random, rows: int, columns: int) -> tuple[str, Fits]:
    inputs, outputs = ([random.randrange(5) for _ in range(size)] for size in (columns, rows))
    strict = random.random() < 0.5
    fits = _where(rows, columns, lambda row, column: outputs[row] - strict >= inputs[column])
    return f"masks.autoregressive({inputs}, {outputs}, strict={strict})", fits
