"""Constraints on the weights of PyTorch models that cost nothing."""

from parametrizations import masks
from parametrizations.diagonal import Diagonal
from parametrizations.fusion import fuse, path
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.neg_exp_diagonal import NegExpDiagonal
from parametrizations.parametrization import Parametrization
from parametrizations.zero_diagonal import ZeroDiagonal

__all__ = [
    "Diagonal",
    "MaskedSparse",
    "NegExpDiagonal",
    "Parametrization",
    "ZeroDiagonal",
    "fuse",
    "masks",
    "path",
]
