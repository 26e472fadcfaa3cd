"""Exact constraints on the weights of PyTorch models, with fast products for structured weights.

Constraints, each a map from a freely trainable tensor onto a set of weights:

- `Diagonal`: zeros off the main diagonal
- `ZeroDiagonal`: zeros on the main diagonal
- `NegExpDiagonal`: negative numbers on the main diagonal
- `MaskedSparse`: zeros outside a mask, given as a tensor or as a rule of `parametrizations.masks`
- `Signed`: given signs, such as positive entries, or one sign for each column
- `Parametrization`: the base class of your own constraints; `parametrizations.testing.check_parametrization` tests them

Calls on a layer or a whole model:

- `register` attaches constraints to tensors by name or class, `bake` removes them and returns a plain model
- `remask` changes the masks of `MaskedSparse` during training, and moves the optimizer state;
  `dense_gradients` gives the gradient with respect to the full weight in one pass
- `summary` shows the constrained tensors, `explain` the product (way to multiply) that a layer uses, and why
- `plain_state_dict` gives a checkpoint for the plain model; ``load_state_dict`` also takes plain checkpoints
- `tune` measures the products of each layer on this machine, and selects the fastest
- `fuse` adds the fast products to layers that PyTorch's own ``register_parametrization`` constrained

Modules: `masks`, rules for `MaskedSparse`; `signs`, rules for `Signed`; `positive`, maps onto the positive numbers, and
`testing`, both for your own constraints; and `typing`, the types of arguments and results. All other modules are
internal.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from parametrizations import ZeroDiagonal, bake, register
    >>> model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = register(model, {"0.weight": ZeroDiagonal()})
    >>> model[0].weight.diagonal().detach()
    tensor([0., 0., 0.])
    >>> bake(model)[0]  # a plain model
    Linear(in_features=3, out_features=3, bias=True)
"""

from parametrizations import masks, positive, signs
from parametrizations import testing as testing
from parametrizations import typing as typing
from parametrizations._models.bake import bake
from parametrizations._models.checkpoints import plain_state_dict
from parametrizations._models.dense_gradients import dense_gradients
from parametrizations._models.fuse import explain, fuse
from parametrizations._models.register import register
from parametrizations._models.remask import remask
from parametrizations._models.summary import summary
from parametrizations._models.tune import tune
from parametrizations.diagonal import Diagonal
from parametrizations.masked_sparse import MaskedSparse
from parametrizations.neg_exp_diagonal import NegExpDiagonal
from parametrizations.parametrization import Parametrization
from parametrizations.signed import Signed
from parametrizations.zero_diagonal import ZeroDiagonal

__all__ = [
    "Diagonal",
    "MaskedSparse",
    "NegExpDiagonal",
    "Parametrization",
    "Signed",
    "ZeroDiagonal",
    "bake",
    "dense_gradients",
    "explain",
    "fuse",
    "masks",
    "plain_state_dict",
    "positive",
    "register",
    "remask",
    "signs",
    "summary",
    "tune",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return [*__all__, "testing", "typing"]  # not in __all__: a star import would hide others, such as standard typing
