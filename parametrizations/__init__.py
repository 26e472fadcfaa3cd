"""Exact constraints on the weights of PyTorch models, at the cost of their structure.

Constraints, each a map from freely trainable numbers onto a set of matrices:

- `Diagonal`: zeros off the main diagonal
- `ZeroDiagonal`: zeros on it
- `NegExpDiagonal`: negative numbers on it
- `MaskedSparse`: zeros outside a mask, given as a tensor or as a rule of `parametrizations.masks`
- `Parametrization`: the base of one of your own, which `parametrizations.testing.check_parametrization` checks

Calls, each on a layer or a whole model:

- `register` attaches constraints by name, `bake` takes them off again and gives a plain model
- `remask` moves the mask of `MaskedSparse` while a model is trained, with its optimizer; `dense_gradients` has, for one
  pass, the gradient by the whole weight
- `summary` shows what is constrained, `explain` how a layer multiplies
- `plain_state_dict` gives the checkpoint of the plain model; ``load_state_dict`` takes plain ones, too
- `tune` measures how each layer multiplies fastest on this machine, and makes it so
- `fuse` does for layers of PyTorch's own ``register_parametrization`` what `register` does by itself

Modules:

- `masks`: rules for `MaskedSparse`
- `positive`: the map behind `NegExpDiagonal`, for constraints of your own
- `testing`: `check_parametrization`
- `typing`: what calls return and take, to annotate with

Everything else is internal, and its name begins with an underscore.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from parametrizations import ZeroDiagonal, bake, register
    >>> model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = register(model, {"0.weight": ZeroDiagonal()})
    >>> model[0].weight.diagonal().detach()
    tensor([0., 0., 0.])
    >>> bake(model)
    Sequential(
      (0): Linear(in_features=3, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=1, bias=True)
    )
"""

from parametrizations import masks, positive
from parametrizations._models.bake import bake
from parametrizations._models.dense_gradients import dense_gradients
from parametrizations._models.fuse import explain, fuse
from parametrizations._models.plain_state_dict import plain_state_dict
from parametrizations._models.register import register
from parametrizations._models.remask import remask
from parametrizations._models.summary import summary
from parametrizations._models.tune import tune
from parametrizations.diagonal import Diagonal
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
    "bake",
    "dense_gradients",
    "explain",
    "fuse",
    "masks",
    "plain_state_dict",
    "positive",
    "register",
    "remask",
    "summary",
    "tune",
]


def __dir__() -> list[str]:
    """The public names, for completion."""
    return [*__all__, "testing", "typing"]
