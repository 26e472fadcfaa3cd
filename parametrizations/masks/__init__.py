"""Mask rules: which entries `MaskedSparse` keeps, decided when it is shown the weight.

Each function here returns a `MaskRule`. Any other callable that takes the weight, ``(out, in)``, and
returns a boolean tensor of the same shape is a rule too. ``True`` keeps an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real

import torch
from torch import Tensor

from parametrizations._torch.arrays import numbers

__all__ = [
    "MaskRule",
    "autoregressive",
    "banded",
    "block_diagonal",
    "from_edges",
    "lower_triangular",
    "magnitude",
    "n_of_m",
    "random",
]


@dataclass(frozen=True, eq=False)
class MaskRule:
    """A named function from a weight, ``(out, in)``, to a boolean mask of the same shape.

    Copies share the rule, and so a `torch.Generator` in it: layers that are given copies of one
    parametrization draw different masks.

    Args:
        name: What `repr` shows.
        build: The function.

    Example:
        >>> checkerboard = MaskRule("checkerboard", lambda weight: torch.eye(2).repeat(2, 2).bool())
        >>> checkerboard(torch.zeros(4, 4)).int()
        tensor([[1, 0, 1, 0],
                [0, 1, 0, 1],
                [1, 0, 1, 0],
                [0, 1, 0, 1]], dtype=torch.int32)
    """

    name: str
    build: Callable[[Tensor], Tensor]

    def __call__(self, weight: Tensor) -> Tensor:
        """The mask for a weight, ``(out, in)``."""
        return self.build(weight)

    def __deepcopy__(self, memo: dict[int, object]) -> MaskRule:
        return self

    def __repr__(self) -> str:
        return self.name


def random(density: float, *, generator: torch.Generator | None = None) -> MaskRule:
    """Keep entries drawn uniformly, exactly ``round(density * out * in)`` of them.

    Args:
        density: The share that is kept, above 0 and at most 1.
        generator: Where the draws come from, on any device; torch's default one on the CPU if None. On
            several machines give each the same seed: a mask is not broadcast.

    Raises:
        ValueError: If ``density`` is out of range.

    Example:
        >>> rule = random(0.25, generator=torch.Generator().manual_seed(0))
        >>> int(rule(torch.empty(8, 6)).sum())
        12
    """
    density = _density("random", density)
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(
            f"random needs a torch.Generator or None. Got {type(generator).__name__}. "
            "Seed one: torch.Generator().manual_seed(0)."
        )
    return MaskRule(f"random({density})", partial(_random, density, generator))


def magnitude(density: float) -> MaskRule:
    """Keep the entries of largest absolute value, exactly ``round(density * out * in)`` of them.

    The usual criterion for pruning a trained weight: Han et al., *Learning both Weights and Connections
    for Efficient Neural Networks*, 2015, arXiv 1506.02626. Needs the weight's values, so not for meta.

    Args:
        density: The share that is kept, above 0 and at most 1.

    Raises:
        ValueError: If ``density`` is out of range.

    Example:
        >>> magnitude(0.5)(torch.tensor([[1.0, -3.0], [2.0, 0.0]]))
        tensor([[False,  True],
                [ True, False]])
    """
    density = _density("magnitude", density)
    return MaskRule(f"magnitude({density})", partial(_magnitude, density))


def n_of_m(n: int, m: int) -> MaskRule:
    """Keep the ``n`` largest of every ``m`` consecutive entries along the inputs; ``n_of_m(2, 4)`` is 2:4.

    Mishra et al., *Accelerating Sparse Deep Neural Networks*, 2021, arXiv 2104.08378. Needs the weight's
    values, so not for meta.

    Args:
        n: How many are kept, from 1 to ``m``.
        m: The group's size, which has to divide the number of inputs.

    Raises:
        ValueError: If ``n`` is out of range; when shown a weight whose inputs ``m`` does not divide.

    Example:
        >>> n_of_m(1, 2)(torch.tensor([[1.0, -3.0, 2.0, 0.0]]))
        tensor([[False,  True,  True, False]])
    """
    n, m = _integers("n_of_m", n, m)
    if not 1 <= n <= m:
        raise ValueError(f"n_of_m needs 1 <= n <= m. Got n={n}, m={m}. Keep n entries of every m.")
    return MaskRule(f"n_of_m({n}, {m})", partial(_n_of_m, n, m))


def banded(lower: int, upper: int) -> MaskRule:
    """Keep the main diagonal, ``lower`` diagonals below and ``upper`` above it.

    Args:
        lower: Number of subdiagonals, at least 0.
        upper: Number of superdiagonals, at least 0.

    Raises:
        ValueError: If a number is negative.

    Example:
        >>> banded(0, 1)(torch.empty(2, 3))
        tensor([[ True,  True, False],
                [False,  True,  True]])
    """
    lower, upper = _integers("banded", lower, upper)
    if lower < 0 or upper < 0:
        raise ValueError(
            f"banded needs numbers of diagonals that are at least 0. Got lower={lower}, upper={upper}. "
            "Use lower_triangular(diagonal) for a band that leaves out the main diagonal."
        )
    return MaskRule(f"banded({lower}, {upper})", partial(_band, upper, -lower))


def lower_triangular(diagonal: int = 0) -> MaskRule:
    """Keep the entries on and below a diagonal, as `torch.tril` counts them.

    Args:
        diagonal: 0 is the main diagonal; a positive one lies above it.

    Example:
        >>> lower_triangular(-1)(torch.empty(2, 3))
        tensor([[False, False, False],
                [ True, False, False]])
    """
    (diagonal,) = _integers("lower_triangular", diagonal)
    return MaskRule(f"lower_triangular({diagonal})", partial(_band, diagonal, None))


def block_diagonal(blocks: int) -> MaskRule:
    """Keep ``blocks`` equal blocks along the diagonal: groups that do not see each other.

    Args:
        blocks: How many; has to divide both the outputs and the inputs.

    Raises:
        ValueError: If ``blocks`` is below 1; when shown a weight that it does not divide.

    Example:
        >>> block_diagonal(2)(torch.empty(2, 4))
        tensor([[ True,  True, False, False],
                [False, False,  True,  True]])
    """
    (blocks,) = _integers("block_diagonal", blocks)
    if blocks < 1:
        raise ValueError(f"block_diagonal needs at least 1 block. Got {blocks}. Pass a positive number.")
    return MaskRule(f"block_diagonal({blocks})", partial(_block_diagonal, blocks))


def from_edges(edges: Iterable[tuple[int, int]] | Tensor) -> MaskRule:
    """Keep the listed connections: ``(source, target)`` keeps ``weight[target, source]``.

    Args:
        edges: Pairs of an input's and an output's index, or an integer tensor ``(edges, 2)``. An edge
            that is listed twice counts once.

    Raises:
        ValueError: If these are no pairs of integers; when shown a weight that an edge lies outside of.

    Example:
        >>> from_edges([(2, 0), (0, 1)])(torch.empty(2, 3))
        tensor([[False, False,  True],
                [ True, False, False]])
    """
    pairs = numbers("from_edges", edges)
    if pairs.numel() == 0:
        pairs = pairs.new_zeros((0, 2), dtype=torch.int64)
    is_whole = not (pairs.is_floating_point() or pairs.is_complex() or pairs.dtype is torch.bool)
    if pairs.dim() != 2 or pairs.shape[1] != 2 or not is_whole:
        raise ValueError(
            f"from_edges needs pairs (source, target) of integers. Got {pairs.dtype} of shape "
            f"{tuple(pairs.shape)}. Pass a list of pairs, or an integer tensor of shape (edges, 2)."
        )
    return MaskRule(f"from_edges({len(pairs)} edges)", partial(_from_edges, pairs.long()))


def autoregressive(
    in_degrees: Sequence[int] | Tensor, out_degrees: Sequence[int] | Tensor, *, strict: bool = False
) -> MaskRule:
    """Keep the connections that respect an order: ``out_degrees[i] >= in_degrees[j]`` keeps ``[i, j]``.

    One layer of MADE: Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, 2015,
    arXiv 1502.03509, equations 12 and 13. Hidden layers use the default; the output layer is strict.

    Args:
        in_degrees: One number for each input.
        out_degrees: One number for each output.
        strict: Whether to ask for ``>`` instead.

    Raises:
        ValueError: When shown a weight whose shape the numbers do not fit.

    Example:
        >>> autoregressive([1, 2, 3], [1, 2, 3], strict=True)(torch.empty(3, 3))
        tensor([[False, False, False],
                [ True, False, False],
                [ True,  True, False]])
    """
    inputs, outputs = (numbers("autoregressive", degrees) for degrees in (in_degrees, out_degrees))
    if inputs.is_complex() or outputs.is_complex() or bool(inputs.isnan().any() | outputs.isnan().any()):
        raise ValueError("autoregressive needs degrees that can be ordered. Got complex numbers or NaN.")
    name = f"autoregressive({inputs.numel()} inputs, {outputs.numel()} outputs, strict={strict})"
    return MaskRule(name, partial(_autoregressive, inputs, outputs, strict))


def _random(density: float, generator: torch.Generator | None, weight: Tensor) -> Tensor:
    device = generator.device if generator is not None else torch.device("cpu")
    kept = torch.randperm(weight.numel(), generator=generator, device=device)
    return _keep(weight, kept[: round(density * weight.numel())])


def _magnitude(density: float, weight: Tensor) -> Tensor:
    _require_values("magnitude", weight)
    kept = weight.abs().flatten().topk(round(density * weight.numel()), sorted=False)
    return _keep(weight, kept.indices)


def _n_of_m(n: int, m: int, weight: Tensor) -> Tensor:
    name = f"n_of_m({n}, {m})"
    _require_values(name, weight)
    if weight.shape[1] % m:
        raise ValueError(
            f"{name} needs a number of inputs that {m} divides. Got {weight.shape[1]} inputs. "
            "Choose another m, or pad the inputs."
        )
    groups = weight.abs().reshape(-1, m)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter(1, groups.topk(n).indices, True)
    return kept.view(weight.shape)


def _band(highest: int, lowest: int | None, weight: Tensor) -> Tensor:
    mask = torch.ones(weight.shape, dtype=torch.bool, device=_home(weight)).tril(highest)
    return mask if lowest is None else mask.triu(lowest)


def _block_diagonal(blocks: int, weight: Tensor) -> Tensor:
    rows, columns = weight.shape
    if rows % blocks or columns % blocks:
        raise ValueError(
            f"block_diagonal({blocks}) needs a weight whose sides {blocks} divides. "
            f"Got shape {tuple(weight.shape)}. Choose another number of blocks."
        )
    row, column = (torch.arange(size, device=_home(weight)) for size in (rows, columns))
    return (row // max(rows // blocks, 1))[:, None] == column // max(columns // blocks, 1)


def _from_edges(pairs: Tensor, weight: Tensor) -> Tensor:
    source, target = pairs.unbind(1)
    rows, columns = weight.shape
    outside = (source < 0) | (source >= columns) | (target < 0) | (target >= rows)
    if bool(outside.any()):
        raise ValueError(
            f"from_edges needs sources below {columns} and targets below {rows}, as the weight's shape is "
            f"{tuple(weight.shape)}. Got {int(outside.sum())} edges outside, the first "
            f"{tuple(pairs[outside][0].tolist())}. Pairs are (source, target)."
        )
    return _keep(weight, target * columns + source)


def _autoregressive(inputs: Tensor, outputs: Tensor, strict: bool, weight: Tensor) -> Tensor:
    if (outputs.numel(), inputs.numel()) != tuple(weight.shape):
        raise ValueError(
            f"autoregressive needs a degree for each side of the weight, of shape {tuple(weight.shape)}. "
            f"Got {outputs.numel()} output and {inputs.numel()} input degrees. Pass (in, out) in order."
        )
    above, below = outputs.reshape(-1, 1), inputs.reshape(1, -1)
    return ((above > below) if strict else (above >= below)).to(_home(weight))


def _home(weight: Tensor) -> torch.device:
    return torch.device("cpu") if weight.is_meta else weight.device


def _keep(weight: Tensor, positions: Tensor) -> Tensor:
    """The mask with the given row-major positions, which may repeat."""
    mask = torch.zeros(weight.numel(), dtype=torch.bool, device=_home(weight))
    mask[positions.to(mask.device)] = True
    return mask.view(weight.shape)


def _integers(name: str, *values: object) -> list[int]:
    whole = [int(value) for value in values if isinstance(value, Integral) and not isinstance(value, bool)]
    if len(whole) < len(values):
        got = ", ".join(type(value).__name__ for value in values)
        raise TypeError(f"{name} needs whole numbers. Got {got}. Convert them with int().")
    return whole


def _density(name: str, density: object) -> float:
    if not isinstance(density, Real) or isinstance(density, bool):
        raise TypeError(f"{name} needs a density that is a number. Got {type(density).__name__}. Pass a float.")
    if not 0 < float(density) <= 1:
        raise ValueError(f"{name} needs a density above 0 and at most 1. Got {density}. 0.1 keeps a tenth.")
    return float(density)


def _require_values(name: str, weight: Tensor) -> None:
    if weight.is_meta:
        raise ValueError(
            f"{name} needs the values of the weight. Got a weight on the meta device, which has none. Use "
            "a rule that looks at the shape alone, or materialise the weight first."
        )
