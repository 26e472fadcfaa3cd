"""Mask rules: they choose the entries that `MaskedSparse` keeps, at registration or for a new mask in `remask`.

Each function here returns a `MaskRule`, except the two schedules. Any other callable that takes the weight,
``(out, in)``, and returns a boolean or a sparse tensor of the same shape is a rule too. ``True`` keeps an entry. A
sparse tensor keeps the entries that it specifies, whatever their values.

- By a given structure: `banded`, `lower_triangular`, `block_diagonal`, `from_edges`, `from_edge_index`,
  `autoregressive`
- By the weight's values: `magnitude`, `n_of_m`, `nonzero`; by chance: `random`
- By several weights at once: `erdos_renyi`, `global_magnitude`; for blocks of rows, such as gates: `per_block`
- By the existing mask, for `remask`: `evolutionary` (SET), `rigl`
- Schedules: `gradual`, of a density; `cosine`, of the fraction of entries that move
"""

from parametrizations.masks.chance import random
from parametrizations.masks.kept import Kept
from parametrizations.masks.moving import evolutionary, rigl
from parametrizations.masks.per_block import per_block
from parametrizations.masks.rule import MaskRule
from parametrizations.masks.schedules import cosine, gradual
from parametrizations.masks.structure import (
    autoregressive,
    banded,
    block_diagonal,
    from_edge_index,
    from_edges,
    lower_triangular,
)
from parametrizations.masks.values import magnitude, n_of_m, nonzero
from parametrizations.masks.whole_model import erdos_renyi, global_magnitude

__all__ = [
    "Kept",
    "MaskRule",
    "autoregressive",
    "banded",
    "block_diagonal",
    "cosine",
    "erdos_renyi",
    "evolutionary",
    "from_edge_index",
    "from_edges",
    "global_magnitude",
    "gradual",
    "lower_triangular",
    "magnitude",
    "n_of_m",
    "nonzero",
    "per_block",
    "random",
    "rigl",
]
