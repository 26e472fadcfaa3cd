"""Constraints on the weights of PyTorch models that cost nothing."""

from parametrizations import masks
from parametrizations.baking import bake
from parametrizations.checkpoints import plain_state_dict
from parametrizations.diagonal import Diagonal
from parametrizations.fusion import fuse, path
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.neg_exp_diagonal import NegExpDiagonal
from parametrizations.parametrization import Parametrization
from parametrizations.registration import register
from parametrizations.summaries import summary
from parametrizations.zero_diagonal import ZeroDiagonal

__all__ = [
    "Diagonal",
    "MaskedSparse",
    "NegExpDiagonal",
    "Parametrization",
    "ZeroDiagonal",
    "bake",
    "fuse",
    "masks",
    "path",
    "plain_state_dict",
    "register",
    "summary",
]
