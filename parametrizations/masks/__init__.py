"""Mask rules: which entries `MaskedSparse` keeps, decided when it is shown the weight.

Each function here returns a `MaskRule`. Any other callable that takes the weight, ``(out, in)``, and
returns a boolean tensor of the same shape is a rule too. ``True`` keeps an entry.
"""

from parametrizations.masks.chance import random
from parametrizations.masks.rule import MaskRule
from parametrizations.masks.structure import autoregressive, banded, block_diagonal, from_edges, lower_triangular
from parametrizations.masks.values import magnitude, n_of_m

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
