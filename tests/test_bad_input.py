"""Bad input to every public function and option raises the exact error and changes nothing."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, transfer_parametrizations_and_params
from typing_extensions import override

import parametrizations
from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    Parametrization,
    Signed,
    ZeroDiagonal,
    masks,
    positive,
    register,
    signs,
)
from tools.campaign.bits import everything, held


class World:
    """The models that bad input is tried on."""

    def __init__(self) -> None:
        self.plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        self.linear = nn.Linear(4, 4)
        self.bilinear = nn.Bilinear(2, 2, 2)
        self.norm = nn.BatchNorm1d(3)
        self.convolution = nn.Conv1d(2, 2, 3)
        self.tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.tied[1].weight = self.tied[0].weight
        self.container = nn.Sequential(nn.Linear(3, 3))
        self.container.register_parameter("scale", nn.Parameter(torch.ones(3, 3)))
        self.broken, self.infinite = _with_entry(torch.nan), _with_entry(torch.inf)
        self.complex = nn.Linear(4, 4, bias=False)
        self.complex.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.complex64))
        self.integers = nn.Linear(4, 4, bias=False)
        self.integers.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int64), requires_grad=False)
        self.meta = nn.Linear(4, 4, device="meta")
        self.model = register(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), {"0.weight": ZeroDiagonal()})
        self.optimizer = torch.optim.SGD(self.model.parameters())
        self.diagonal = register(nn.Linear(4, 4), {"weight": Diagonal()})
        self.negative = register(nn.Linear(4, 4), {"weight": NegExpDiagonal()})
        self.sparse = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.banded(0, 0))})
        self.signed = register(nn.Linear(4, 4, bias=False), {"weight": Signed(1)})
        self.opposite = register(nn.Linear(4, 4, bias=False), {"weight": Signed(-1)})
        self.columns = register(nn.Linear(4, 4, bias=False), {"weight": Signed(torch.tensor([1, -1, 0, 1]))})
        self.as_is = register(nn.Linear(4, 4, bias=False), {"weight": Signed(signs.as_is())})
        self.projecting = register(nn.Linear(4, 4), {"weight": ZeroDiagonal(on_infeasible="project")})
        self.theirs = register_parametrization(nn.Linear(4, 4), "weight", Diagonal())
        self.huge = _huge()

    def everything(self) -> list[Any]:
        models = [model for model in vars(self).values() if isinstance(model, nn.Module)]
        there = [model for model in models if model not in (self.meta, self.huge)]
        return [*map(everything, there), held(self.optimizer), torch.get_rng_state().tolist()]

    def masked(self, mask: list[float]) -> dict[str, Any]:
        """The checkpoint of the sparse layer with another mask."""
        return self.sparse.state_dict() | {"parametrizations.weight.0._extra_state": torch.tensor(mask)}

    def signs_of(self, signs: Any) -> dict[str, Any]:
        """The checkpoint of the layer with signs of columns, with other signs."""
        return dict(self.columns.state_dict()) | {"parametrizations.weight.0._extra_state": signs}


def _with_entry(value: float) -> nn.Linear:
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = value
    return layer


def _huge() -> nn.Linear:
    """A layer with a dense weight of a petabyte."""
    with torch.device("meta"):
        layer = register(nn.Linear(2**24, 2**24, bias=False), {"weight": Diagonal()})
    return layer.to_empty(device="cpu")


class ToDouble(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


class Empty(Parametrization):
    """Overrides nothing."""


class Half(Parametrization):
    """Overrides only ``forward``."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


def assign(layer: Any, weight: Any) -> None:
    layer.weight = weight


NAMES = {
    **vars(parametrizations),
    **{one.__name__: one for one in (torch, nn, io, ToDouble, Empty, Half, assign, register_parametrization)},
    "nn": nn,
    "numpy": numpy,
    "transfer_parametrizations_and_params": transfer_parametrizations_and_params,
}

# The call, the error, and its message; three dots stand for text of Python or PyTorch.
BAD: dict[str, tuple[str, type[Exception], str]] = {
    "register: no model": (
        "register(3, {})",
        TypeError,
        (
            "register needs a model and a mapping from names to parametrizations. Got int and dict. Pass e.g."
            ' (model, {"encoder.*.weight": Diagonal()}).'
        ),
    ),
    "register: a list of rules": (
        'register(w.plain, [("0.weight", Diagonal())])',
        TypeError,
        (
            "register needs a model and a mapping from names to parametrizations. Got Sequential and list. "
            'Pass e.g. (model, {"encoder.*.weight": Diagonal()}).'
        ),
    ),
    "register: no rules": (
        "register(w.plain, None)",
        TypeError,
        (
            "register needs a model and a mapping from names to parametrizations. Got Sequential and "
            'NoneType. Pass e.g. (model, {"encoder.*.weight": Diagonal()}).'
        ),
    ),
    "register: a key that is no name": (
        "register(w.plain, {1: Diagonal()})",
        TypeError,
        (
            "register needs names, patterns of them, or classes of layers, as keys. Got int. Pass e.g. "
            '{"encoder.*.weight": ...} or {nn.Linear: ...}.'
        ),
    ),
    "register: a class instead of an object": (
        'register(w.plain, {"0.weight": Diagonal})',
        TypeError,
        (
            "register needs a parametrization, or a sequence of them, for '0.weight'. Got the "
            "class Diagonal: write Diagonal(...). Pass an object such as Diagonal(), or a list of them, applied left "
            "to right."
        ),
    ),
    "register: a name instead of an object": (
        'register(w.plain, {"0.weight": "Diagonal"})',
        TypeError,
        (
            "register needs a parametrization, or a sequence of them, for '0.weight'. Got str. Pass an object"
            " such as Diagonal(), or a list of them, applied left to right."
        ),
    ),
    "register: None": (
        'register(w.plain, {"0.weight": [None]})',
        TypeError,
        (
            "register needs a parametrization, or a sequence of them, for '0.weight'. Got NoneType. Pass an "
            "object such as Diagonal(), or a list of them, applied left to right."
        ),
    ),
    "register: an empty sequence": (
        'register(w.plain, {"0.weight": []})',
        TypeError,
        (
            "register needs a parametrization, or a sequence of them, for '0.weight'. Got none. Pass an "
            "object such as Diagonal(), or a list of them, applied left to right."
        ),
    ),
    "register: a sequence with a string in it": (
        'register(w.plain, {"0.weight": [Diagonal(), "x"]})',
        TypeError,
        (
            "register needs a parametrization, or a sequence of them, for '0.weight'. Got str. Pass an object"
            " such as Diagonal(), or a list of them, applied left to right."
        ),
    ),
    "register: nn.Sequential of parametrizations": (
        'register(w.plain, {"0.weight": nn.Sequential(Diagonal())})',
        TypeError,
        (
            "register needs a parametrization, or a sequence of them, for '0.weight'. Got Sequential. Pass an"
            " object such as Diagonal(), or a list of them, applied left to right."
        ),
    ),
    "register: a mask instead of MaskedSparse": (
        'register(w.plain, {"0.weight": torch.ones(4, 4, dtype=torch.bool)})',
        TypeError,
        (
            "register needs a parametrization, or a sequence of them, for '0.weight'. Got Tensor. Wrap a mask or "
            "its rule, as in MaskedSparse(masks.magnitude(density=0.1))."
        ),
    ),
    "register: a misspelt name": (
        'register(w.plain, {"0.wieght": Diagonal()})',
        ValueError,
        (
            "register needs a parameter for '0.wieght'. Got no match among 4 names. Names that are close: "
            "'0.weight', '2.weight', '0.bias'."
        ),
    ),
    "register: a pattern that matches nothing": (
        'register(w.plain, {"encoder.*": Diagonal()})',
        ValueError,
        (
            "register needs a parameter for 'encoder.*'. Got no match among 4 names. Names that are close: "
            "'0.weight', '0.bias', '2.weight'."
        ),
    ),
    "register: a name of a module": (
        'register(w.plain, {"0": Diagonal()})',
        ValueError,
        "register needs a parameter for '0'. Got the name of a module. Name its parameters: '0.weight', '0.bias'.",
    ),
    "register: two patterns for one parameter": (
        'register(w.plain, {"*0.weight": Diagonal(), "0.w*": ZeroDiagonal()})',
        ValueError,
        (
            "register needs one rule for each tensor. Got two for '0.weight': '*0.weight' and '0.w*'. Narrow one "
            "key, or pass a list of both parametrizations under one key."
        ),
    ),
    "register: a bias": (
        'register(w.plain, {"0.bias": Diagonal()})',
        ValueError,
        (
            "register cannot attach Diagonal to '0.bias'. Diagonal needs a weight with 2 dimensions. Got 1, "
            "of shape (4,). Register it on a matrix, such as nn.Linear's weight."
        ),
    ),
    "register: everything, so a bias too": (
        'register(w.plain, {"*": Diagonal()})',
        ValueError,
        (
            "register needs weights with 2 dimensions for '*'. Got '0.bias' of shape (4,). Narrow the pattern to "
            "the matches that fit: '0.weight', '2.weight'."
        ),
    ),
    "register: a kernel of a convolution": (
        'register_parametrization(w.convolution, "weight", ZeroDiagonal())',
        ValueError,
        (
            "ZeroDiagonal needs a weight with 2 dimensions. Got 3, of shape (2, 2, 3). Pass its axes of outputs "
            "and inputs, such as axes=(-2, -1)."
        ),
    ),
    "register: a buffer": (
        'register(w.norm, {"running_mean": Diagonal()})',
        ValueError,
        "register needs a parameter for 'running_mean'. Got a buffer. Use PyTorch's register_parametrization for it.",
    ),
    "register: a tied weight": (
        'register(w.tied, {"0.weight": Diagonal()})',
        ValueError,
        (
            "register needs all owners of a tied parameter. Got '0.weight' without '1.weight'. Give both the "
            "same constraint, or exclude it: {'0.weight': None}. To untie them, write layer.weight = "
            "nn.Parameter(layer.weight.detach().clone()) for one of the layers."
        ),
    ),
    "register: a lazy layer": (
        'register(nn.LazyLinear(3), {"weight": Diagonal()})',
        ValueError,
        (
            "register needs an initialised, unsharded tensor at 'weight'. Got a UninitializedParameter. Run a "
            "batch through a lazy model first; register before fully_shard."
        ),
    ),
    "register: a parameter on a container": (
        'register(w.container, {"scale": Diagonal()})',
        ValueError,
        (
            "register needs a module other than a container for 'scale'. Got Sequential, where the "
            "parametrizations would be one more child. Move the parameter to another module."
        ),
    ),
    "register: a weight with NaN": (
        'register(w.broken, {"weight": ZeroDiagonal()})',
        ValueError,
        (
            "register cannot attach ZeroDiagonal to 'weight'. ZeroDiagonal needs a finite weight. "
            "Got NaN or infinity in 1 of 16 entries. Initialise or repair the weight first."
        ),
    ),
    "register: a weight with infinity": (
        'register(w.infinite, {"weight": NegExpDiagonal()})',
        ValueError,
        (
            "register cannot attach NegExpDiagonal to 'weight'. NegExpDiagonal needs a finite "
            "weight. Got NaN or infinity in 1 of 16 entries. Initialise or repair the weight first."
        ),
    ),
    "register: a second constraint of the same class": (
        'register(w.model, {"0.weight": ZeroDiagonal(on_infeasible="project")})',
        ValueError,
        (
            "register needs constraints of different classes for '0.weight'. Got a second ZeroDiagonal. Pass it once, "
            "or, to replace an earlier one, bake first."
        ),
    ),
    "register: a second mask": (
        'register(w.sparse, {"weight": MaskedSparse(masks.banded(1, 1))})',
        ValueError,
        (
            "register needs constraints of different classes for 'weight'. Got a second MaskedSparse. Pass it once, "
            "or, to replace an earlier one, bake first. To change only its mask, call remask."
        ),
    ),
    "register: what stores another shape on top of another": (
        'register(w.model, {"0.weight": Diagonal()})',
        ValueError,
        (
            "register cannot attach Diagonal to '0.weight' on top of ZeroDiagonal (bake first to replace). "
            "Diagonal needs to be the first parametrization of its tensor: only the first may store another "
            "shape than the weight's. Got a tensor of shape (4, 4). Attach the parametrization with register, "
            'first in the list: register(model, {"layer.weight": [Diagonal(...), ...]}). If the tensor already '
            "has constraints, bake the layer before."
        ),
    ),
    "register: a sequence in the wrong order": (
        'register(w.plain, {"0.weight": [NegExpDiagonal(), Diagonal()]})',
        ValueError,
        (
            "register cannot attach Diagonal to '0.weight' on top of NegExpDiagonal. Diagonal needs to be the "
            "first parametrization of its tensor: only the first may store another shape than the weight's. Got "
            "a tensor of shape (4, 4). Attach the parametrization with register, first in the list: register(model, "
            '{"layer.weight": [Diagonal(...), ...]}). If the tensor already has constraints, bake the layer before.'
        ),
    ),
    "register: MaskedSparse second": (
        'register(w.plain, {"0.weight": [ZeroDiagonal(), MaskedSparse(masks.banded(1, 1))]})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight' on top of ZeroDiagonal. MaskedSparse needs to be "
            "the first parametrization of its tensor: only the first may store another shape than the weight's. "
            "Got a tensor of shape (4, 4). Attach the parametrization with register, first in the list: "
            'register(model, {"layer.weight": [MaskedSparse(...), ...]}). If the tensor already has constraints, '
            "bake the layer before."
        ),
    ),
    "PyTorch's register_parametrization: an object that belongs to another tensor": (
        'register_parametrization(w.plain[0], "weight", w.model[0].parametrizations.weight[0])',
        ValueError,
        (
            "ZeroDiagonal needs one object for each tensor. Got one already used for a tensor of shape (4, 4). "
            "Create a new one: ZeroDiagonal(...)."
        ),
    ),
    "register: an integer as optimizer": (
        'register(w.plain, {"0.weight": Diagonal()}, optimizer=3)',
        TypeError,
        (
            "register needs a torch.optim.Optimizer. Got int. Pass the optimizer of the model. If "
            "there are several, pass None, and create them again afterwards."
        ),
    ),
    "register: an optimizer of another model": (
        'register(w.plain, {"0.weight": Diagonal()}, optimizer=w.optimizer)',
        ValueError,
        (
            "register needs the optimizer of the changed parameters, such as '0.weight'. Got one "
            "without any of them. Pass the optimizer of this model."
        ),
    ),
    "register: a mask of another shape": (
        'register(w.plain, {"0.weight": MaskedSparse(torch.ones(3, 4, dtype=torch.bool))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight'. MaskedSparse needs a mask of the weight's shape, "
            "(4, 4). Got shape (3, 4). True keeps an entry."
        ),
    ),
    "register: a rule that returns floats": (
        'register(w.plain, {"0.weight": MaskedSparse(torch.abs)})',
        TypeError,
        (
            "register cannot attach MaskedSparse to '0.weight'. MaskedSparse needs a mask of dtype torch.bool "
            "from the rule abs. Got torch.float32. Return a boolean tensor, or a sparse one."
        ),
    ),
    "register: a rule that returns None": (
        'register(w.plain, {"0.weight": MaskedSparse(lambda weight: None)})',
        TypeError,
        (
            "register cannot attach MaskedSparse to '0.weight'. MaskedSparse needs a mask of dtype torch.bool "
            "from the rule <lambda>. Got NoneType. Return a boolean tensor, or a sparse one."
        ),
    ),
    "register: a rule that needs other arguments": (
        'register(w.plain, {"0.weight": MaskedSparse(lambda: None)})',
        TypeError,
        (
            "MaskedSparse needs a rule with one argument. Got <lambda>: too many positional arguments. Write e.g. "
            "lambda weight: weight != 0."
        ),
    ),
    "register: n_of_m that does not divide": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.n_of_m(2, 3))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight'. n_of_m(2, 3) needs a number of inputs that 3 "
            "divides. Got 4 inputs. Choose another m, or leave this layer out."
        ),
    ),
    "register: blocks that do not divide": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.block_diagonal(3))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight'. block_diagonal(3) needs a weight with sides "
            "divisible by 3. Got shape (4, 4). Choose another number of blocks."
        ),
    ),
    "register: an edge outside": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.from_edges([(0, 1), (4, 0)]))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight'. from_edges needs sources below 4 and targets "
            "below 4, as the weight's shape is (4, 4). Got 1 edges outside, the first (4, 0). Pairs are "
            "(source, target)."
        ),
    ),
    "register: a negative edge": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.from_edges([(-1, 0)]))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight'. from_edges needs sources below 4 and targets "
            "below 4, as the weight's shape is (4, 4). Got 1 edges outside, the first (-1, 0). Pairs are "
            "(source, target)."
        ),
    ),
    "register: degrees of another shape": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.autoregressive([1, 2], [1, 2]))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight'. autoregressive needs a degree for each output "
            "and input of the weight, of shape (4, 4). Got 2 output and 2 input degrees. Pass (in_degrees, "
            "out_degrees)."
        ),
    ),
    "register: magnitude on the meta device": (
        'register(w.meta, {"weight": MaskedSparse(masks.magnitude(density=0.5))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to 'weight'. magnitude needs the values of the weight. Got a"
            " weight on the meta device, which has none. Use a rule that looks at the shape alone, or "
            "materialise the weight first."
        ),
    ),
    "register: n_of_m on the meta device": (
        'register(w.meta, {"weight": MaskedSparse(masks.n_of_m(2, 4))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to 'weight'. n_of_m(2, 4) needs the values of the weight. "
            "Got a weight on the meta device, which has none. Use a rule that looks at the shape alone, or "
            "materialise the weight first."
        ),
    ),
    "register: a module with two inputs": (
        'register(w.plain, {"0.weight": w.bilinear})',
        TypeError,
        "register cannot attach Bilinear to '0.weight'. ...",
    ),
    "register: a module that changes the dtype": (
        'register(w.plain, {"0.weight": ToDouble()})',
        ValueError,
        "register cannot attach ToDouble to '0.weight'. Registering a parametrization may not change the dtype...",
    ),
    "on_infeasible: another word": (
        'Diagonal(on_infeasible="ignore")',
        ValueError,
        "Diagonal needs on_infeasible to be 'raise' or 'project'. Got 'ignore'.",
    ),
    "on_infeasible: None": (
        "ZeroDiagonal(on_infeasible=None)",
        ValueError,
        "ZeroDiagonal needs on_infeasible to be 'raise' or 'project'. Got None.",
    ),
    "product: another word": (
        'NegExpDiagonal(product="fast")',
        ValueError,
        "NegExpDiagonal needs product to be 'auto' or 'dense' or 'replaced-diagonal'. Got 'fast'.",
    ),
    "product: a number": (
        "MaskedSparse(masks.random(density=0.5), product=1)",
        ValueError,
        "MaskedSparse needs product to be 'auto' or 'dense' or 'strips' or 'csr'. Got 1.",
    ),
    "options: in positions": (
        'Diagonal("project")',
        TypeError,
        (
            "Diagonal needs other arguments. Got Diagonal('project'). Write Diagonal(blocks=None, axes=None, "
            "on_infeasible='raise', product='auto'). Pass no shape: it is that of the weight."
        ),
    ),
    "options: one that is not there": (
        "ZeroDiagonal(floor=1e-3)",
        TypeError,
        (
            "ZeroDiagonal needs other arguments. Got ZeroDiagonal(floor=0.001). Write ZeroDiagonal(blocks=None, "
            "axes=None, on_infeasible='raise', product='auto'). Pass no shape: it is that of the weight."
        ),
    ),
    "options: of an object of one's own": (
        'Parametrization(on_infeasible="x")',
        ValueError,
        "Parametrization needs on_infeasible to be 'raise' or 'project'. Got 'x'.",
    ),
    "MaskedSparse: no mask": (
        "MaskedSparse()",
        TypeError,
        (
            "MaskedSparse needs other arguments. Got MaskedSparse(). Write MaskedSparse(mask, "
            "on_infeasible='raise', product='auto'). Pass no shape: it is that of the weight. For a density, pass a "
            "rule: MaskedSparse(masks.magnitude(density=0.1)). Pass blocks and axes to the rule."
        ),
    ),
    "MaskedSparse: a number": (
        "MaskedSparse(0.1)",
        TypeError,
        (
            "MaskedSparse needs a boolean tensor or a mask rule. Got float. Pass a rule, such as "
            "masks.magnitude(density=0.1)."
        ),
    ),
    "MaskedSparse: a list": (
        "MaskedSparse([[True, False]])",
        TypeError,
        "MaskedSparse needs a boolean tensor or a mask rule. Got list. Pass torch.tensor(mask).",
    ),
    "MaskedSparse: floats": (
        "MaskedSparse(torch.ones(4, 4))",
        TypeError,
        "MaskedSparse needs a mask of dtype torch.bool. Got torch.float32. Pass e.g. `mask != 0`.",
    ),
    "MaskedSparse: integers": (
        "MaskedSparse(torch.ones(4, 4, dtype=torch.int64))",
        TypeError,
        "MaskedSparse needs a mask of dtype torch.bool. Got torch.int64. Pass e.g. `mask != 0`.",
    ),
    "MaskedSparse: a scalar": (
        "MaskedSparse(torch.ones((), dtype=torch.bool))",
        ValueError,
        (
            "MaskedSparse needs a mask of at least 1 dimension. Got shape (). Pass a mask of the weight's shape, True "
            "at kept entries; scalar weights take none."
        ),
    ),
    "MaskedSparse: a mask on the meta device": (
        'MaskedSparse(torch.ones(4, 4, dtype=torch.bool, device="meta"))',
        ValueError,
        (
            "MaskedSparse needs a dense or sparse mask with values. Got one of layout torch.strided on meta. "
            "Make the mask on the CPU; a weight on meta has a shape alone."
        ),
    ),
    "MaskedSparse: a sparse mask with dense dimensions": (
        "MaskedSparse(torch.eye(4).to_sparse(1))",
        ValueError,
        ("MaskedSparse needs a sparse mask without dense dimensions. Got 1. Pass mask.to_dense() != 0."),
    ),
    "masks.random: zero": (
        "masks.random(density=0.0)",
        ValueError,
        "random needs a density above 0 and at most 1. Got 0.0. 0.1 keeps a tenth.",
    ),
    "masks.random: above one": (
        "masks.random(density=1.5)",
        ValueError,
        "random needs a density above 0 and at most 1. Got 1.5. 0.1 keeps a tenth.",
    ),
    "masks.random: NaN": (
        'masks.random(density=float("nan"))',
        ValueError,
        "random needs a density above 0 and at most 1. Got nan. 0.1 keeps a tenth.",
    ),
    "masks.random: text": (
        'masks.random(density="0.1")',
        TypeError,
        "random needs a number for density. Got str. Pass a float.",
    ),
    "masks.random: a seed instead of a generator": (
        "masks.random(density=0.1, generator=0)",
        TypeError,
        "random needs a torch.Generator or None. Got int. Seed one: torch.Generator().manual_seed(0).",
    ),
    "masks.magnitude: negative": (
        "masks.magnitude(density=-0.1)",
        ValueError,
        "magnitude needs a density above 0 and at most 1. Got -0.1. 0.1 keeps a tenth.",
    ),
    "masks.magnitude: a tensor": (
        "masks.magnitude(density=torch.tensor(0.1))",
        TypeError,
        "magnitude needs a number for density. Got Tensor. Pass a float.",
    ),
    "masks.magnitude: a percentage": (
        "masks.magnitude(density=10)",
        ValueError,
        "magnitude needs a density above 0 and at most 1. Got 10. 0.1 keeps a tenth.",
    ),
    "masks.nonzero: an argument": (
        "masks.nonzero(0.1)",
        TypeError,
        "nonzero needs other arguments. Got nonzero(0.1). Write nonzero().",
    ),
    "masks.n_of_m: axes of three": (
        "masks.n_of_m(2, 4, axes=(0, 1, 2))",
        TypeError,
        "n_of_m(2, 4) needs two axes, (out, in). Got (0, 1, 2). Pass e.g. axes=(0, 1).",
    ),
    "masks.banded: axes of a vector": (
        "masks.banded(1, 1, axes=(0, 1))(torch.ones(4))",
        ValueError,
        "banded(1, 1, axes=(0, 1)) needs a matrix, or a batch of matrices. Got shape (4,). Leave it out.",
    ),
    "masks.banded: one axis twice": (
        "masks.banded(1, 1, axes=(0, -2))(torch.ones(4, 4))",
        ValueError,
        "banded(1, 1, axes=(0, -2)) needs two different axes of the weight. Got axes=(0, -2) for shape (4, 4). "
        "Pass (out, in), such as (0, 1).",
    ),
    "register: a class that no module has": (
        "register(w.plain, {nn.Conv2d: MaskedSparse(masks.banded(1, 1))})",
        ValueError,
        (
            "register needs a parameter for Conv2d. Got none in modules of this class. Pass a class of layers "
            "with one of their own, such as nn.Linear."
        ),
    ),
    "register: a class that is not of a module": (
        "register(w.plain, {int: MaskedSparse(masks.banded(1, 1))})",
        TypeError,
        "register needs names, patterns of them, or classes of layers, as keys. Got the class int...",
    ),
    "masks.n_of_m: more than there are": (
        "masks.n_of_m(5, 4)",
        ValueError,
        "n_of_m needs 1 <= n <= m. Got n=5, m=4. n_of_m(2, 4) keeps 2 of every 4.",
    ),
    "masks.n_of_m: none": (
        "masks.n_of_m(0, 4)",
        ValueError,
        "n_of_m needs 1 <= n <= m. Got n=0, m=4. n_of_m(2, 4) keeps 2 of every 4.",
    ),
    "masks.n_of_m: floats": (
        "masks.n_of_m(2.0, 4)",
        TypeError,
        "n_of_m needs whole numbers. Got float, int. Pass one int for each argument.",
    ),
    "masks.banded: negative": (
        "masks.banded(-1, 1)",
        ValueError,
        (
            "banded needs numbers of diagonals of at least 0. Got lower=-1, upper=1. Use lower_triangular(-1) "
            "for all entries below the main diagonal, or a boolean mask for another band."
        ),
    ),
    "masks.banded: floats": (
        "masks.banded(1.5, 1)",
        TypeError,
        "banded needs whole numbers. Got float, int. Pass one int for each argument.",
    ),
    "masks.lower_triangular: text": (
        'masks.lower_triangular("0")',
        TypeError,
        "lower_triangular needs whole numbers. Got str. Pass one int for each argument.",
    ),
    "masks.block_diagonal: none": (
        "masks.block_diagonal(0)",
        ValueError,
        "block_diagonal needs at least 1 block. Got 0. Pass a positive number.",
    ),
    "masks.block_diagonal: floats": (
        "masks.block_diagonal(2.0)",
        TypeError,
        "block_diagonal needs whole numbers. Got float. Pass one int for each argument.",
    ),
    "masks.from_edges: a number": (
        "masks.from_edges(3)",
        TypeError,
        "from_edges needs numbers. Got int: .... Pass e.g. [(0, 1), (0, 2)], with units numbered from 0.",
    ),
    "masks.from_edges: names": (
        'masks.from_edges([("a", "b")])',
        TypeError,
        "from_edges needs numbers. Got list: .... Pass e.g. [(0, 1), (0, 2)], with units numbered from 0.",
    ),
    "masks.from_edges: triples": (
        "masks.from_edges([(0, 1, 2)])",
        ValueError,
        (
            "from_edges needs pairs (source, target) of integers. Got list: torch.int64 of shape (1, 3). Pass a "
            "list of pairs, or an integer tensor of shape (edges, 2), or call from_edge_index for (2, edges)."
        ),
    ),
    "masks.from_edges: floats": (
        "masks.from_edges([(0.0, 1.0)])",
        ValueError,
        (
            "from_edges needs pairs (source, target) of integers. Got list: torch.float32 of shape (1, 2). Pass "
            "a list of pairs, or an integer tensor of shape (edges, 2), or call from_edge_index for (2, edges)."
        ),
    ),
    "masks.from_edges: ragged": (
        "masks.from_edges([(0, 1), (2,)])",
        TypeError,
        "from_edges needs numbers. Got list: .... Pass e.g. [(0, 1), (0, 2)], with units numbered from 0.",
    ),
    "masks.autoregressive: names": (
        'masks.autoregressive(["a"], ["b"])',
        TypeError,
        "autoregressive needs numbers. Got list: .... Pass e.g. range(1, 4), a number for each unit.",
    ),
    "masks.autoregressive: NaN": (
        'masks.autoregressive([1.0, float("nan")], [1.0, 2.0])',
        ValueError,
        "autoregressive needs degrees that can be ordered. Got complex numbers or NaN.",
    ),
    "masks.autoregressive: a number": (
        "masks.autoregressive(3, 3)",
        TypeError,
        "autoregressive needs numbers. Got int: .... Pass e.g. range(1, 4), a number for each unit.",
    ),
    "masks.random: a truth value": (
        "masks.random(density=True)",
        TypeError,
        "random needs a number for density. Got bool. Pass a float.",
    ),
    "masks.n_of_m: a truth value": (
        "masks.n_of_m(True, 4)",
        TypeError,
        "n_of_m needs whole numbers. Got bool, int. Pass one int for each argument.",
    ),
    "contains: a list": (
        "ZeroDiagonal().contains([[0.0]])",
        TypeError,
        "ZeroDiagonal needs a tensor in contains. Got list.",
    ),
    "masks.autoregressive: complex": (
        "masks.autoregressive([1j], [1j])",
        ValueError,
        "autoregressive needs degrees that can be ordered. Got complex numbers or NaN.",
    ),
    "assigning: outside Diagonal": (
        "assign(w.diagonal, torch.ones(4, 4))",
        ValueError,
        (
            "Diagonal needs every entry off the main diagonal to be 0. Got a weight of shape (4, 4) where 12 "
            "of 16 entries break this, the worst 1 at row 0, column 1. Assign a weight that keeps the rule,"
            " such as what project(weight) of this parametrization returns, or create it with "
            "on_infeasible='project'."
        ),
    ),
    "assigning: outside ZeroDiagonal": (
        "assign(w.model[0], torch.ones(4, 4))",
        ValueError,
        (
            "ZeroDiagonal needs every entry on the main diagonal to be 0. Got a weight of shape (4, 4) where "
            "4 of 16 entries break this, the worst 1 at row 0, column 0. Assign a weight that keeps the "
            "rule, such as what project(weight) of this parametrization returns, or create it with "
            "on_infeasible='project'."
        ),
    ),
    "assigning: outside NegExpDiagonal": (
        "assign(w.negative, torch.eye(4))",
        ValueError,
        (
            "NegExpDiagonal needs every entry on the main diagonal to be negative, and no larger than its "
            "dtype can train. Got a weight of shape (4, 4) where 4 of 16 entries break this, the worst 1 at"
            " row 0, column 0. Assign a weight that keeps the rule, such as what project(weight) of this "
            "parametrization returns, or create it with on_infeasible='project'."
        ),
    ),
    "assigning: too large for NegExpDiagonal": (
        "assign(w.negative, torch.full((4, 4), -3e38))",
        ValueError,
        (
            "NegExpDiagonal needs every entry on the main diagonal to be negative, and no larger than its "
            "dtype can train. Got a weight of shape (4, 4) where 4 of 16 entries break this, the worst "
            "-3e+38 at row 0, column 0. Assign a weight that keeps the rule, such as what project(weight) of "
            "this parametrization returns, or create it with on_infeasible='project'."
        ),
    ),
    "assigning: outside MaskedSparse": (
        "assign(w.sparse, torch.ones(4, 4))",
        ValueError,
        (
            "MaskedSparse needs every entry outside the mask to be 0. Got a weight of shape (4, 4) where 12 "
            "of 16 entries break this, the worst 1 at row 0, column 1. Assign a weight that keeps the rule,"
            " such as what project(weight) of this parametrization returns, or create it with "
            "on_infeasible='project'."
        ),
    ),
    "assigning: another shape": (
        "assign(w.diagonal, torch.eye(3))",
        ValueError,
        (
            "Diagonal needs a weight of shape (4, 4). Got (3, 3). Assign a weight of that shape; create a new "
            "object for another."
        ),
    ),
    "assigning: one dimension": (
        "assign(w.diagonal, torch.ones(4))",
        ValueError,
        (
            "Diagonal needs a weight of shape (4, 4). Got (4,). Assign a weight of that shape; create a new "
            "object for another."
        ),
    ),
    "assigning: integers": (
        "assign(w.diagonal, torch.eye(4, dtype=torch.int64))",
        TypeError,
        (
            "Diagonal needs a weight of dtype float16, bfloat16, float32, float64, complex64, complex128. Got"
            " torch.int64. Convert this weight or its layer first."
        ),
    ),
    "assigning: a list": (
        "assign(w.diagonal, [[1.0]])",
        TypeError,
        "Diagonal needs a dense tensor. Got list. Pass torch.as_tensor(weight).",
    ),
    "assigning: None": (
        "assign(w.diagonal, None)",
        TypeError,
        "Diagonal needs a dense tensor. Got NoneType. Pass torch.as_tensor(weight).",
    ),
    "assigning: a sparse tensor": (
        "assign(w.diagonal, torch.eye(4).to_sparse())",
        TypeError,
        "Diagonal needs a dense tensor. Got torch.sparse_coo. Pass weight.to_dense().",
    ),
    "assigning: NaN": (
        "assign(w.diagonal, torch.full((4, 4), torch.nan))",
        ValueError,
        (
            "Diagonal needs a finite weight. Got NaN or infinity in 16 of 16 entries. Initialise or "
            "repair the weight first."
        ),
    ),
    "assigning: NaN where it projects": (
        "assign(w.projecting, torch.full((4, 4), torch.nan))",
        ValueError,
        (
            "ZeroDiagonal needs a finite weight. Got NaN or infinity in 16 of 16 entries. Initialise "
            "or repair the weight first."
        ),
    ),
    "fuse: no model": (
        "fuse(3)",
        TypeError,
        "fuse needs a model. Got int. Pass a torch.nn.Module.",
    ),
    "fuse: None": (
        "fuse(None)",
        TypeError,
        "fuse needs a model. Got NoneType. Pass a torch.nn.Module.",
    ),
    "explain: no layer": (
        "explain(3)",
        TypeError,
        "explain needs a layer. Got int. Pass a torch.nn.Module.",
    ),
    "explain: a name": (
        'explain("weight")',
        TypeError,
        "explain needs a layer. Got str. Pass a torch.nn.Module.",
    ),
    "summary: no model": (
        "summary(w.model.state_dict())",
        TypeError,
        "summary needs a model. Got OrderedDict. Pass a torch.nn.Module.",
    ),
    "tune: no model": (
        "tune(w.model.state_dict(), torch.ones(2, 3))",
        TypeError,
        "tune needs a model. Got OrderedDict. Pass a torch.nn.Module.",
    ),
    "tune: no inputs": (
        "tune(w.model)",
        TypeError,
        "...Got none (...missing 1 required positional argument: 'input'). Pass a batch...",
    ),
    "bake: no model": (
        "bake(3)",
        TypeError,
        "bake needs a model. Got int. Pass a torch.nn.Module.",
    ),
    "bake: None": (
        "bake(None)",
        TypeError,
        "bake needs a model. Got NoneType. Pass a torch.nn.Module.",
    ),
    "bake: an optimizer without inplace": (
        "bake(w.model, optimizer=w.optimizer)",
        ValueError,
        "bake needs inplace=True to change an optimizer. Got inplace=False. Leave the optimizer out for a copy.",
    ),
    "bake: no optimizer": (
        "bake(w.model, inplace=True, optimizer=3)",
        TypeError,
        (
            "bake needs a torch.optim.Optimizer. Got int. Pass the optimizer of the model. If there "
            "are several, pass None, and create them again afterwards."
        ),
    ),
    "bake: an optimizer of another model": (
        "bake(w.model, inplace=True, optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)]))",
        ValueError,
        (
            "bake needs the optimizer of the changed parameters, such as "
            "'0.parametrizations.weight.original'. Got one without any of them. Pass the optimizer "
            "of this model."
        ),
    ),
    "bake: a weight larger than the memory": (
        "bake(w.huge)",
        ValueError,
        (
            "bake needs 1.13e+03 TB for dense weights on cpu, 1.13e+03 TB of them for 'weight'. Got a device"
            " with ... Keep the layer constrained, and save its state_dict()."
        ),
    ),
    "bake: in position": (
        "bake(w.model, True)",
        TypeError,
        (
            'bake needs names, patterns of them, or classes of layers. Got bool. Pass e.g. (model, "encoder.*"), '
            "or the dict of rules that you passed to register."
        ),
    ),
    "bake: an empty list of patterns": (
        "bake(w.model, [])",
        ValueError,
        "bake needs one or more patterns. Got none. Pass None for every constrained tensor.",
    ),
    "MaskedSparse: an array of objects": (
        "MaskedSparse(numpy.array([[True, None]], dtype=object))",
        TypeError,
        (
            "An array needs numbers or truth values to become a tensor. Got dtype object. Convert it first, "
            "as .astype(bool) does."
        ),
    ),
    "torch.jit.script: a layer of PyTorch's own": (
        "torch.jit.script(w.theirs)",
        RuntimeError,
        (
            "torch.jit.script needs plain modules, without parametrizations. Got Diagonal. Script a baked "
            "copy: torch.jit.script(bake(model))."
        ),
    ),
    "transfer: onto a tensor that has one": (
        "transfer_parametrizations_and_params(w.diagonal, w.theirs)",
        ValueError,
        (
            "Diagonal needs a stored tensor of shape (4,) for a weight of shape (4, 4). Got shape (4, 4). "
            "Diagonal needs to be the first parametrization of its tensor: only the first may store another "
            "shape than the weight's. Got a tensor of shape (4, 4). Attach the parametrization with register, "
            'first in the list: register(model, {"layer.weight": [Diagonal(...), ...]}). If the tensor already '
            "has constraints, bake the layer before."
        ),
    ),
    "plain_state_dict: no model": (
        "plain_state_dict({})",
        TypeError,
        "plain_state_dict needs a model, and a state dict or None. Got dict and NoneType. Pass (model, checkpoint).",
    ),
    "plain_state_dict: a list": (
        "plain_state_dict(w.model, [])",
        TypeError,
        (
            "plain_state_dict needs a model, and a state dict or None. Got Sequential and list. Pass (model, "
            "checkpoint)."
        ),
    ),
    "plain_state_dict: constraints that the model has not": (
        "plain_state_dict(w.plain, w.model.state_dict())",
        ValueError,
        (
            "plain_state_dict needs a checkpoint of this model, with its constraints. Got 1 unknown "
            "constrained entries, such as '0.parametrizations.weight.original'. Register the same "
            "rules first. If these names lack the prefix of a wrapper, such as 'module.', pass wrapper.module; "
            "if only they have it, strip it."
        ),
    ),
    "plain_state_dict: values without their mask": (
        'plain_state_dict(w.sparse, {"parametrizations.weight.original": torch.ones(4)})',
        ValueError,
        (
            "plain_state_dict needs a checkpoint of this model. Got one that does not fit at 'weight': Error(s) "
            "in loading state_dict for ParametrizationList:\n\tMaskedSparse needs values and their positions "
            "together. Got no '0._extra_state' in the checkpoint, which is incomplete, or of another constraint. "
            "Save the whole state_dict of the layer, or load plain_state_dict of the model that saved the "
            "checkpoint. The layer stays as it was. Convert it with the model that saved it."
        ),
    ),
    "plain_state_dict: larger than the memory": (
        "plain_state_dict(w.huge)",
        ValueError,
        (
            "plain_state_dict needs 1.13e+03 TB for dense weights on cpu, 1.13e+03 TB of them for 'weight'. "
            "Got a device with ... Keep the layer constrained, and save its state_dict()."
        ),
    ),
    "load_state_dict: a plain weight outside the set": (
        'w.diagonal.load_state_dict({"weight": torch.ones(4, 4), "bias": w.diagonal.bias.detach()})',
        RuntimeError,
        (
            "...While loading the plain 'weight': Diagonal needs every entry off the main diagonal to be 0. "
            "Got a weight of shape (4, 4) where 12 of 16 entries break this, the worst 1 at row 0, column "
            "1. Load or pass a weight that keeps the rule, such as what project(weight) of this parametrization "
            "returns, or create it with on_infeasible='project'. The tensor stays as it was."
        ),
    ),
    "load_state_dict: a plain weight of another shape": (
        'w.diagonal.load_state_dict({"weight": torch.eye(3), "bias": w.diagonal.bias.detach()})',
        RuntimeError,
        (
            "...While loading the plain 'weight': Diagonal needs a weight of shape (4, 4). Got (3, 3). Load or"
            " pass a weight of that shape; create a new object for another. The tensor stays as it was."
        ),
    ),
    "load_state_dict: a plain weight that is no tensor": (
        'w.diagonal.load_state_dict({"weight": 3, "bias": w.diagonal.bias.detach()})',
        RuntimeError,
        "...While loading the plain 'weight': A weight needs to be a tensor. Got int. The tensor stays as it was.",
    ),
    "load_state_dict: a plain weight with NaN": (
        ('w.diagonal.load_state_dict({"weight": torch.full((4, 4), torch.nan), "bias": w.diagonal.bias.detach()})'),
        RuntimeError,
        (
            "...While loading the plain 'weight': Diagonal needs a finite weight. Got NaN or "
            "infinity in 16 of 16 entries. Initialise or repair the weight first. The tensor stays "
            "as it was."
        ),
    ),
    "load_state_dict: a mask out of range": (
        "w.sparse.load_state_dict(w.masked([4, 4, 0, 5, 10, 16]))",
        RuntimeError,
        (
            "...MaskedSparse needs positions from 0 to 15 in its mask. Got 1 out of range, the first"
            " at index 3. The checkpoint is damaged: restore it from its source. The layer at "
            "'parametrizations.weight.' stays as it was."
        ),
    ),
    "load_state_dict: a mask out of order": (
        "w.sparse.load_state_dict(w.masked([4, 4, 5, 0, 10, 15]))",
        RuntimeError,
        (
            "...MaskedSparse needs positions in increasing order in its mask. Got 1 not below the "
            "next one, the first at index 0. The checkpoint is damaged: restore it from its source. The "
            "layer at 'parametrizations.weight.' stays as it was."
        ),
    ),
    "load_state_dict: a mask with a place twice": (
        "w.sparse.load_state_dict(w.masked([4, 4, 0, 0, 10, 15]))",
        RuntimeError,
        (
            "...MaskedSparse needs positions in increasing order in its mask. Got 1 not below the "
            "next one, the first at index 0. The checkpoint is damaged: restore it from its source. The "
            "layer at 'parametrizations.weight.' stays as it was."
        ),
    ),
    "load_state_dict: a mask of another shape": (
        "w.sparse.load_state_dict(w.masked([2, 8, 0, 5, 10, 15]))",
        RuntimeError,
        (
            "...MaskedSparse needs a mask for a weight of shape (4, 4). Got one for shape (2, 8). Load it "
            "into a layer of that shape. The layer at 'parametrizations.weight.' stays as it was."
        ),
    ),
    "load_state_dict: a mask of another length": (
        "w.sparse.load_state_dict(w.masked([4, 4, 0, 5]))",
        RuntimeError,
        (
            "...MaskedSparse needs as many values as positions, a tensor of shape (2,). Got (4,) for "
            "'parametrizations.weight.original'. Restore a checkpoint with values and positions saved "
            "together. "
            "The layer at 'parametrizations.weight.' stays as it was."
        ),
    ),
    "load_state_dict: an averaged mask": (
        "w.sparse.load_state_dict(w.masked([4.0, 4.0, 0.5, 5.0]))",
        RuntimeError,
        (
            "...MaskedSparse needs its mask as a 1-D tensor of int32 or int64, with the weight's shape, then "
            "the positions. Got torch.float32 of shape (4,). Average only the floating-point entries of "
            "checkpoints, which must all have the mask of this model. The layer at 'parametrizations.weight.' "
            "stays as it was."
        ),
    ),
    "load_state_dict: a mask that is text": (
        ('w.sparse.load_state_dict(w.sparse.state_dict() | {"parametrizations.weight.0._extra_state": "mask"})'),
        RuntimeError,
        (
            "...MaskedSparse needs its mask as a 1-D tensor of int32 or int64, with the weight's shape, then "
            "the positions. Got str. Restore the checkpoint, and do not convert its masks. The layer at "
            "'parametrizations.weight.' stays as it was."
        ),
    ),
    "load_state_dict: values without their mask": (
        (
            "w.sparse.load_state_dict({k: v for k, v in w.sparse.state_dict().items() if not "
            'k.endswith("_extra_state")})'
        ),
        RuntimeError,
        (
            "...MaskedSparse needs values and their positions together. Got no "
            "'parametrizations.weight.0._extra_state' in the checkpoint, which is incomplete, or of another "
            "constraint. Save the whole state_dict of the layer, or load plain_state_dict of the model that "
            "saved the checkpoint. The layer at 'parametrizations.weight.' stays as it was."
        ),
    ),
    "load_state_dict: complex values": (
        (
            'w.sparse.load_state_dict(w.sparse.state_dict() | {"parametrizations.weight.original": '
            "torch.ones(4, dtype=torch.complex64)})"
        ),
        RuntimeError,
        (
            "...MaskedSparse needs dense floating-point values that can be copied into torch.float32 on cpu for "
            "'parametrizations.weight.original', both real or both complex. Got torch.complex64 of layout "
            "torch.strided on cpu. Convert or materialise them first. The layer at 'parametrizations.weight.' "
            "stays as it was."
        ),
    ),
    "right_inverse: an object that is used": (
        'register_parametrization(w.linear, "weight", w.model[0].parametrizations.weight[0])',
        ValueError,
        (
            "ZeroDiagonal needs one object for each tensor. Got one already used for a tensor of shape "
            "(4, 4). Create a new one: ZeroDiagonal(...)."
        ),
    ),
    "register_parametrization: a vector": (
        'register_parametrization(w.linear, "bias", Diagonal())',
        ValueError,
        (
            "Diagonal needs a weight with 2 dimensions. Got 1, of shape (4,). Register it on a matrix, such "
            "as nn.Linear's weight."
        ),
    ),
    "forward: before it is registered": (
        "Diagonal()(torch.ones(4))",
        ValueError,
        (
            "Diagonal needs to know its weight. Got no weight yet. Register it first: register(model, "
            '{"layer.weight": Diagonal(...)}), and read the attached copy, layer.parametrizations.weight[0].'
        ),
    ),
    "forward: another shape than is stored": (
        "w.diagonal.parametrizations.weight[0](torch.ones(3))",
        ValueError,
        (
            "Diagonal needs a stored tensor of shape (4,) for a weight of shape (4, 4). Got shape (3,). Pass "
            "what right_inverse returned."
        ),
    ),
    "stored_shape: before it is registered": (
        "Diagonal().stored_shape",
        ValueError,
        (
            "Diagonal needs to know its weight. Got no weight yet. Register it first: register(model, "
            '{"layer.weight": Diagonal(...)}), and read the attached copy, layer.parametrizations.weight[0].'
        ),
    ),
    "mask: before it is registered": (
        "MaskedSparse(masks.banded(1, 1)).mask",
        ValueError,
        (
            "MaskedSparse needs to know its weight. Got no weight yet. Register it first: register(model, "
            '{"layer.weight": MaskedSparse(...)}), and read the attached copy, layer.parametrizations.weight[0].'
        ),
    ),
    "positions: before it is registered": (
        "MaskedSparse(masks.banded(1, 1)).positions",
        ValueError,
        (
            "MaskedSparse needs to know its weight. Got no weight yet. Register it first: register(model, "
            '{"layer.weight": MaskedSparse(...)}), and read the attached copy, layer.parametrizations.weight[0].'
        ),
    ),
    "contains: on the meta device": (
        'ZeroDiagonal().contains(torch.empty(4, 4, device="meta"))',
        ValueError,
        "ZeroDiagonal needs values in contains. Got a weight on the meta device.",
    ),
    "a layer: an input of another width": (
        "w.diagonal(torch.ones(2, 5))",
        RuntimeError,
        (
            "A layer with 4 inputs needs an input of shape (*, 4). Got shape (2, 5). Check the width of the "
            "layer before it."
        ),
    ),
    "a layer: an input of another dtype": (
        "w.diagonal(torch.ones(2, 4, dtype=torch.float64))",
        RuntimeError,
        (
            "A layer needs an input with the dtype and device of its weight, torch.float32 on cpu. Got "
            "torch.float64 on cpu. Convert one of them with .to()."
        ),
    ),
    "a layer: an input without a dimension": (
        "w.diagonal(torch.ones(()))",
        RuntimeError,
        "A layer with 4 inputs needs an input of shape (*, 4). Got shape (). Check the width of the layer before it.",
    ),
    "positive.exp: integers": (
        "positive.exp(torch.tensor([1]))",
        TypeError,
        (
            "A positive map needs a stored tensor of a real floating dtype, float16 to float64. Got "
            "torch.int64. Convert the layer back with .to()."
        ),
    ),
    "a parametrization without a forward": (
        "Empty().right_inverse(torch.ones(2, 2))",
        TypeError,
        (
            "Empty needs methods forward(x), excess(weight) and project(weight). Got no forward, no excess, no "
            "project. Write def forward(self, x): ..."
        ),
    ),
    "a parametrization with a forward alone": (
        'register(w.plain, {"0.weight": Half()})',
        TypeError,
        (
            "Half needs methods forward(x), excess(weight) and project(weight). Got no excess, no project. Write "
            "def excess(self, weight): ..."
        ),
    ),
    "pickling a constrained model": (
        "torch.save(w.model, io.BytesIO())",
        RuntimeError,
        (
            "ParametrizedLinear cannot be pickled: PyTorch refuses to pickle parametrized modules. Save its "
            "state_dict(), or pickle a plain copy: torch.save(bake(model), file)."
        ),
    ),
    "remask: no model": (
        "remask(3, {}, optimizer=None)",
        TypeError,
        (
            "remask needs a model and a mapping from names to mask rules. Got int and dict. Pass e.g. (model, "
            '{"encoder.*.weight": masks.magnitude(density=0.1)}).'
        ),
    ),
    "remask: no mapping": (
        "remask(w.sparse, masks.random(density=0.5), optimizer=None)",
        TypeError,
        (
            "remask needs a model and a mapping from names to mask rules. Got ParametrizedLinear and MaskRule. "
            'Pass e.g. (model, {"encoder.*.weight": masks.magnitude(density=0.1)}).'
        ),
    ),
    "remask: a parametrization": (
        'remask(w.sparse, {"weight": MaskedSparse(masks.random(density=0.5))}, optimizer=None)',
        TypeError,
        (
            "remask needs a mask rule for 'weight'. Got MaskedSparse. Pass the rule or the mask itself, without"
            " MaskedSparse."
        ),
    ),
    "remask: a class": (
        'remask(w.sparse, {"weight": MaskedSparse}, optimizer=None)',
        TypeError,
        (
            "remask needs a mask rule for 'weight'. Got the class MaskedSparse. Pass the rule or the mask "
            "itself, without MaskedSparse."
        ),
    ),
    "remask: a number": (
        'remask(w.sparse, {"weight": 0.5}, optimizer=None)',
        TypeError,
        (
            "remask cannot make a mask for 'weight'. MaskedSparse needs a boolean tensor or a mask rule. Got "
            "float. Pass a rule, such as masks.magnitude(density=0.1)."
        ),
    ),
    "remask: no match": (
        'remask(w.sparse, {"wight": masks.random(density=0.5)}, optimizer=None)',
        ValueError,
        "remask needs a tensor with a mask for 'wight'. Got no match among 1 names. Names that are close: 'weight'.",
    ),
    "remask: no mask": (
        'remask(w.diagonal, {"weight": masks.random(density=0.5)}, optimizer=None)',
        ValueError,
        (
            "remask needs a tensor with a mask for 'weight'. Got 'weight', constrained, but "
            "without a mask. Bake it, and register a mask: register(model, {...: "
            "MaskedSparse(...)})."
        ),
    ),
    "remask: two rules": (
        'remask(w.sparse, {"*weight": masks.random(density=0.5), "w*": masks.random(density=0.5)}, optimizer=None)',
        ValueError,
        "remask needs one rule for each tensor. Got two for 'weight': '*weight' and 'w*'. Narrow one of them.",
    ),
    "remask: a mask of another shape": (
        'remask(w.sparse, {"weight": torch.eye(3).bool()}, optimizer=None)',
        ValueError,
        (
            "remask cannot change the mask of 'weight'. MaskedSparse needs a mask of the weight's shape, (4, 4). "
            "Got shape (3, 3). True keeps an entry."
        ),
    ),
    "remask: too large a density": (
        'remask(w.sparse, {"weight": masks.magnitude(density=0.5)}, optimizer=None)',
        ValueError,
        (
            "remask cannot change the mask of 'weight'. magnitude(0.5) needs to choose 8 of the kept entries. "
            "Got only 4; other entries have no value. Lower the density, or give a rule that also adds entries, "
            "such as random."
        ),
    ),
    "remask: another's optimizer": (
        'remask(w.sparse, {"weight": masks.magnitude(density=0.1)}, optimizer=w.optimizer)',
        ValueError,
        (
            "remask needs the optimizer of the changed parameters, such as 'weight'. Got one without "
            "any of them. Pass the optimizer of this model."
        ),
    ),
    "remask: no optimizer": (
        'remask(w.sparse, {"weight": masks.magnitude(density=0.1)})',
        TypeError,
        (
            "remask needs other arguments. Got remask(ParametrizedLinear, dict). Write remask(model, rules, "
            'optimizer=...). The rules are a mapping, such as {"encoder.*.weight": ...}. With optimizer=None no '
            "optimizer state moves: create a new optimizer afterwards."
        ),
    ),
    "remask: LBFGS": (
        'remask(w.sparse, {"weight": masks.random(density=0.1)}, optimizer=torch.optim.LBFGS(w.sparse.parameters()))',
        ValueError,
        (
            "remask needs an optimizer with state for each entry of 'weight'. Got LBFGS, which has "
            "one history for all parameters. Pass optimizer=None, and create a new optimizer afterwards."
        ),
    ),
    "dense_gradients: no model": (
        "dense_gradients(3).__enter__()",
        TypeError,
        "dense_gradients needs a model. Got int. Pass a torch.nn.Module.",
    ),
    "dense_gradients: a number for a pattern": (
        "dense_gradients(w.sparse, 3).__enter__()",
        TypeError,
        (
            "dense_gradients needs names, patterns of them, or classes of layers. Got int. Pass e.g. (model, "
            '"encoder.*"), or the dict of rules that you passed to register.'
        ),
    ),
    "dense_gradients: no match": (
        'dense_gradients(w.sparse, "bias").__enter__()',
        ValueError,
        (
            "dense_gradients needs a constrained tensor for 'bias'. Got no match among 1 names. Names that are "
            "close: 'weight'."
        ),
    ),
    "dense_gradients: no pass": (
        'dense_gradients(w.sparse, "weight").__enter__()["weight"][:]',
        RuntimeError,
        (
            "dense_gradients needs a forward pass with 'weight' and its backward pass inside the block. Got "
            "none. Move both there; leave out a weight that does not affect the loss."
        ),
    ),
    "dense_gradients: an entry": (
        'dense_gradients(w.sparse, "weight").__enter__()["weight"][0]',
        TypeError,
        "DenseGradient needs a slice of rows: gradient[0:64]. Got 0. Take [:] for all.",
    ),
    "masks.evolutionary: too large": (
        "masks.evolutionary(1.5)",
        ValueError,
        "evolutionary needs a fraction from 0 to 1. Got 1.5. 0.3 is three tenths.",
    ),
    "masks.evolutionary: a name": (
        'masks.evolutionary("0.3")',
        TypeError,
        "evolutionary needs a number for fraction. Got str. Pass a float.",
    ),
    "masks.evolutionary: a seed": (
        "masks.evolutionary(0.3, generator=0)",
        TypeError,
        "evolutionary needs a torch.Generator or None. Got int. Seed one: torch.Generator().manual_seed(0).",
    ),
    "masks.evolutionary: no mask yet": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.evolutionary(0.3))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to '0.weight'. evolutionary(0.3) changes an existing mask. "
            "Got a weight of shape (4, 4) without a mask. Register a mask first, such as "
            "MaskedSparse(masks.random(density=0.1)), and then pass this rule to remask."
        ),
    ),
    "masks.rigl: negative": (
        "masks.rigl(-0.1, {})",
        ValueError,
        "rigl needs a fraction from 0 to 1. Got -0.1. 0.3 is three tenths.",
    ),
    "masks.rigl: a tensor": (
        "masks.rigl(0.3, torch.ones(4, 4))",
        TypeError,
        (
            "rigl needs dense gradients by the names of weights. Got Tensor. Take them from `with "
            "dense_gradients(model, patterns) as gradients`."
        ),
    ),
    "masks.rigl: no gradient": (
        'remask(w.sparse, {"weight": masks.rigl(0.3, {})}, optimizer=None)',
        ValueError,
        (
            "remask cannot change the mask of 'weight'. rigl(0.3) needs the dense gradient of 'weight'. Got "
            "none. Take them from `with dense_gradients(model) as gradients` with this model; the "
            "grad of a stored tensor is not dense."
        ),
    ),
    "masks.rigl: the stored tensor's gradient": (
        'remask(w.sparse, {"weight": masks.rigl(0.3, {"weight": torch.ones(4)})}, optimizer=None)',
        ValueError,
        (
            "remask cannot change the mask of 'weight'. rigl(0.3) needs a dense gradient of shape (4, 4) for "
            "'weight'. Got (4,). Take it from dense_gradients; the gradient of the stored entries is not enough. "
            "rigl cannot be a rule for per_block, since this gradient is for the whole weight."
        ),
    ),
    "masks.rigl: not finite": (
        'remask(w.sparse, {"weight": masks.rigl(0.3, {"weight": torch.full((4, 4), torch.nan)})}, optimizer=None)',
        ValueError,
        (
            "remask cannot change the mask of 'weight'. rigl(0.3) needs a finite dense gradient of 'weight'. "
            "Got one with NaN or infinity. Skip this update, as GradScaler skips the step."
        ),
    ),
    "masks.cosine: out of range": (
        "masks.cosine(2.0, steps=10)",
        ValueError,
        "cosine needs a fraction from 0 to 1. Got 2.0. 0.3 is three tenths.",
    ),
    "masks.cosine: no steps": (
        "masks.cosine(0.3, steps=0)",
        ValueError,
        "cosine needs at least 1 step. Got 0. Pass the number of steps after which it ends.",
    ),
    "masks.gradual: none": (
        "masks.gradual(0.5, 0.0, steps=10)",
        ValueError,
        "gradual needs a density above 0 and at most 1. Got 0.0. 0.1 keeps a tenth.",
    ),
    "masks.gradual: half a step": (
        "masks.gradual(0.5, 0.1, steps=0.5)",
        TypeError,
        "gradual needs whole numbers. Got float. Pass one int for each argument.",
    ),
    "masks.per_block: a rule that is not called": (
        "masks.per_block(masks.random, 4)",
        TypeError,
        ("per_block needs a mask rule. Got function. Pass e.g. (masks.random(density=0.1), blocks=4)."),
    ),
    "masks.erdos_renyi: a rule": (
        "masks.erdos_renyi(density=0.1, rule=0.2)",
        TypeError,
        (
            "erdos_renyi needs a function from a density to a mask rule. Got float. Pass e.g. masks.random, "
            "without calling it."
        ),
    ),
    "masks.erdos_renyi: too large": (
        "masks.erdos_renyi(density=1.5)",
        ValueError,
        "erdos_renyi needs a density above 0 and at most 1. Got 1.5. 0.1 keeps a tenth.",
    ),
    "masks.global_magnitude: none": (
        "masks.global_magnitude(density=0)",
        ValueError,
        "global_magnitude needs a density above 0 and at most 1. Got 0. 0.1 keeps a tenth.",
    ),
    "masks.global_magnitude: too many": (
        'remask(w.sparse, {"weight": masks.global_magnitude(density=0.5)}, optimizer=None)',
        ValueError,
        (
            "global_magnitude(0.5) needs to choose 8 of the kept entries. Got only 4; other entries have no "
            "value. Lower the density, or give a rule that also adds entries, such as random."
        ),
    ),
    "masks.global_magnitude: meta": (
        'register(w.meta, {"weight": MaskedSparse(masks.global_magnitude(density=0.5))})',
        ValueError,
        (
            "global_magnitude(0.5) needs the values of the weight. Got a weight on the meta device, which has "
            "none. Use a rule that looks at the shape alone, or materialise the weight first."
        ),
    ),
    "masks.magnitude: the option of prune": (
        "masks.magnitude(amount=0.9)",
        TypeError,
        (
            "magnitude needs other arguments. Got magnitude(amount=0.9). Write magnitude(density=...). "
            "density is the share to keep: amount=0.9 of torch.nn.utils.prune is density=0.1."
        ),
    ),
    "masks.magnitude: a density by position": (
        "masks.magnitude(0.1)",
        TypeError,
        (
            "magnitude needs other arguments. Got magnitude(0.1). Write magnitude(density=...). density "
            "is the share to keep: amount=0.9 of torch.nn.utils.prune is density=0.1."
        ),
    ),
    "masks.magnitude: a generator": (
        "masks.magnitude(density=0.1, generator=torch.Generator())",
        TypeError,
        (
            "magnitude needs other arguments. Got magnitude(density=0.1, generator=Generator). Write "
            "magnitude(density=...). density is the share to keep: amount=0.9 of torch.nn.utils.prune is "
            "density=0.1."
        ),
    ),
    "masks.random: a seed": (
        "masks.random(density=0.1, seed=0)",
        TypeError,
        (
            "random needs other arguments. Got random(density=0.1, seed=0). Write random(density=..., "
            "generator=None). density is the share to keep: amount=0.9 of torch.nn.utils.prune is "
            "density=0.1. For a seed, pass generator=torch.Generator().manual_seed(0)."
        ),
    ),
    "masks.erdos_renyi: no density": (
        "masks.erdos_renyi()",
        TypeError,
        (
            "erdos_renyi needs other arguments. Got erdos_renyi(). Write erdos_renyi(density=..., "
            "rule=random, axes=None). density is the share to keep: amount=0.9 of torch.nn.utils.prune is"
            " density=0.1."
        ),
    ),
    "masks.magnitude: a schedule": (
        "masks.magnitude(density=masks.gradual(1.0, 0.1, steps=10))",
        TypeError,
        "magnitude needs a number for density. Got a function. Call it, as in schedule(step).",
    ),
    "masks.evolutionary: a schedule": (
        "masks.evolutionary(masks.cosine(0.3, steps=10))",
        TypeError,
        "evolutionary needs a number for fraction. Got a function. Call it, as in schedule(step).",
    ),
    "masks.gradual: as a rule": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.gradual(1.0, 0.1, steps=10))})',
        TypeError,
        (
            "...gradual needs a step, one number. Got a tensor of shape (4, 4). A schedule is not a mask "
            "rule. Give its value to one, as in masks.magnitude(density=schedule(step))."
        ),
    ),
    "masks.cosine: as a rule for remask": (
        'remask(w.sparse, {"weight": masks.cosine(0.3, steps=10)}, optimizer=None)',
        TypeError,
        "...cosine needs a step, one number. Got a tensor of shape (4, 4). A schedule is not a mask rule...",
    ),
    "masks.gradual: steps by position": (
        "masks.gradual(1.0, 0.1, 100)",
        TypeError,
        "gradual needs other arguments. Got gradual(1.0, 0.1, 100). Write gradual(start, end, steps=...).",
    ),
    "masks.n_of_m: text": (
        'masks.n_of_m("2:4")',
        TypeError,
        "n_of_m needs other arguments. Got n_of_m('2:4'). Write n_of_m(n, m, axes=None).",
    ),
    "masks.banded: nothing": (
        "masks.banded()",
        TypeError,
        "banded needs other arguments. Got banded(). Write banded(lower, upper, axes=None).",
    ),
    "masks.block_diagonal: blocks": (
        "masks.block_diagonal(torch.ones(2, 2), torch.ones(2, 2))",
        TypeError,
        (
            "block_diagonal needs other arguments. Got block_diagonal(Tensor, Tensor). Write "
            "block_diagonal(blocks, axes=None)."
        ),
    ),
    "masks.block_diagonal: sizes": (
        "masks.block_diagonal([2, 2])",
        TypeError,
        "block_diagonal needs whole numbers. Got list. Pass one int for each argument.",
    ),
    "masks.from_edges: the edge_index of PyTorch Geometric": (
        "masks.from_edges(torch.tensor([[0, 1, 2], [1, 2, 3]]))",
        ValueError,
        (
            "from_edges needs pairs (source, target) of integers. Got Tensor: torch.int64 of shape (2, 3). Pass "
            "a list of pairs, or an integer tensor of shape (edges, 2), or call from_edge_index for (2, edges)."
        ),
    ),
    "masks.from_edge_index: pairs": (
        "masks.from_edge_index([(0, 1), (1, 2), (2, 3)])",
        ValueError,
        (
            "from_edge_index needs sources and targets, an integer tensor (2, edges). Got shape (3, 2). Call "
            "from_edges for pairs, (edges, 2)."
        ),
    ),
    "masks.from_edge_index: names": (
        'masks.from_edge_index(["a", "b"])',
        TypeError,
        "from_edge_index needs numbers...",
    ),
    "masks.from_edge_index: floats": (
        "masks.from_edge_index(torch.ones(2, 3))",
        ValueError,
        "from_edges needs pairs...",
    ),
    "masks.from_edges: neighbours": (
        "masks.from_edges({0: [1, 2], 1: [2]})",
        ValueError,
        (
            "from_edges needs pairs (source, target) of integers. Got dict: torch.int64 of shape (2,). "
            "Pass a list of pairs..."
        ),
    ),
    "masks.erdos_renyi: a rule, called": (
        "masks.erdos_renyi(density=0.1, rule=masks.magnitude(density=0.1))",
        TypeError,
        (
            "erdos_renyi needs a function from a density to a mask rule. Got MaskRule. Pass e.g. masks.random, "
            "without calling it."
        ),
    ),
    "masks.erdos_renyi: a rule without a density": (
        'register(w.plain, {"0.weight": MaskedSparse(masks.erdos_renyi(density=0.5, rule=masks.banded))})',
        TypeError,
        "...banded needs other arguments. Got banded(density=0.5). Write banded(lower, upper, axes=None).",
    ),
    "MaskRule: a layer": (
        "masks.magnitude(density=0.5)(w.linear)",
        TypeError,
        "magnitude(0.5) needs the weight, a tensor. Got Linear. Pass e.g. layer.weight.",
    ),
    "MaskRule: an array": (
        "masks.n_of_m(1, 2)(numpy.ones((2, 2)))",
        TypeError,
        "n_of_m(1, 2) needs the weight, a tensor. Got ndarray...",
    ),
    "MaskRule: and": (
        "masks.lower_triangular() & masks.magnitude(density=0.5)",
        TypeError,
        (
            "lower_triangular(0) needs a weight to be combined. Got &, | or ~ of the rule. Combine masks in a "
            "function: MaskedSparse(lambda weight: a(weight) & b(weight))."
        ),
    ),
    "MaskRule: or, with a mask": (
        "torch.ones(4, 4, dtype=torch.bool) | masks.lower_triangular()",
        TypeError,
        "lower_triangular(0) needs a weight to be combined...",
    ),
    "MaskRule: not": (
        "~masks.lower_triangular()",
        TypeError,
        "lower_triangular(0) needs a weight to be combined...",
    ),
    "masks.rigl: None for a gradient": (
        'remask(w.sparse, {"weight": masks.rigl(0.3, {"weight": None})}, optimizer=None)',
        ValueError,
        (
            "remask cannot change the mask of 'weight'. rigl(0.3) needs a dense gradient of shape (4, 4) for "
            "'weight'. Got None. Take it from dense_gradients; the gradient of the stored entries is not enough. "
            "rigl cannot be a rule for per_block, since this gradient is for the whole weight."
        ),
    ),
    "Signed: nothing": (
        "Signed()",
        TypeError,
        (
            "Signed needs other arguments. Got Signed(). Write Signed(signs, map='exp', on_infeasible='raise', "
            "product='auto'). Pass no shape: it is that of the weight. The signs are 1, -1, a tensor of them, "
            "or a rule, such as signs.dale()."
        ),
    ),
    "Signed: the map by position": (
        'Signed(1, "softplus")',
        TypeError,
        (
            "Signed needs other arguments. Got Signed(1, 'softplus'). Write Signed(signs, map='exp', "
            "on_infeasible='raise', product='auto'). Pass no shape: it is that of the weight. The signs are 1, -1, a "
            "tensor of them, or a rule, such as signs.dale()."
        ),
    ),
    "Signed: a misspelt map": (
        'Signed(1, map="relu")',
        ValueError,
        "Signed needs map to be 'exp' or 'softplus'. Got 'relu'.",
    ),
    "Signed: another product": (
        'Signed(1, product="csr")',
        ValueError,
        "Signed needs product to be 'auto' or 'dense'. Got 'csr'.",
    ),
    "Signed: another policy": (
        'Signed(1, on_infeasible="clip")',
        ValueError,
        "Signed needs on_infeasible to be 'raise' or 'project'. Got 'clip'.",
    ),
    "Signed: None": (
        "Signed(None)",
        TypeError,
        (
            "Signed needs 1, -1, or a tensor of -1, 0 and 1. Got NoneType. Pass e.g. Signed(-1), or a rule "
            "such as signs.dale()."
        ),
    ),
    "Signed: text": (
        'Signed("positive")',
        TypeError,
        (
            "Signed needs 1, -1, or a tensor of -1, 0 and 1. Got str. Pass e.g. Signed(-1), or a rule such "
            "as signs.dale()."
        ),
    ),
    "Signed: true": (
        "Signed(True)",
        TypeError,
        (
            "Signed needs 1, -1, or a tensor of -1, 0 and 1. Got bool. Pass e.g. Signed(-1), or a rule such "
            "as signs.dale()."
        ),
    ),
    "Signed: zero": (
        "Signed(0)",
        ValueError,
        "Signed needs a sign of 1 or -1. Got 0, which leaves every entry free. Leave Signed out.",
    ),
    "Signed: two": (
        "Signed(2)",
        ValueError,
        "Signed needs signs of 1, -1, or 0 for free entries. Got 2. Pass torch.sign(signs).",
    ),
    "Signed: half": (
        "Signed(0.5)",
        ValueError,
        "Signed needs signs of 1, -1, or 0 for free entries. Got 0.5. Pass torch.sign(signs).",
    ),
    "Signed: NaN": (
        "Signed(torch.tensor([1, torch.nan]))",
        ValueError,
        "Signed needs signs of 1, -1, or 0 for free entries. Got nan. Pass torch.sign(signs).",
    ),
    "Signed: the weight instead of its signs": (
        "Signed(torch.full((4,), 0.5))",
        ValueError,
        "Signed needs signs of 1, -1, or 0 for free entries. Got 0.5. Pass torch.sign(signs).",
    ),
    "Signed: a boolean mask": (
        "Signed(torch.ones(4, dtype=torch.bool))",
        ValueError,
        "Signed needs signs of 1, -1, or 0 for free entries. Got torch.bool. Pass torch.where(mask, 1, -1).",
    ),
    "Signed: complex signs": (
        "Signed(torch.ones(4, dtype=torch.complex64))",
        ValueError,
        "Signed needs signs of 1, -1, or 0 for free entries. Got torch.complex64. Pass torch.sign(signs.real).",
    ),
    "Signed: an array of text": (
        'Signed(numpy.array(["+", "-"]))',
        TypeError,
        (
            "Signed needs numbers. Got ndarray: An array needs numbers or truth values to become a tensor. "
            "Got dtype <U1...."
        ),
    ),
    "Signed: signs on the meta device": (
        'Signed(torch.ones(4, device="meta"))',
        ValueError,
        (
            "Signed needs the values of its signs. Got a tensor on the meta device, which has none. Create "
            'the signs with device="cpu", or materialise the weight first.'
        ),
    ),
    "Signed: sparse signs": (
        "Signed(torch.eye(4).to_sparse())",
        ValueError,
        "Signed needs a dense tensor of signs. Got torch.sparse_coo. Convert it by to_dense().",
    ),
    "Signed: a rule that is not called": (
        "Signed(signs.dale)",
        TypeError,
        "Signed needs a rule for signs. Got dale, which makes one. Write signs.dale().",
    ),
    "Signed: a class of rules": (
        "Signed(signs.SignRule)",
        TypeError,
        "Signed needs a rule for signs. Got SignRule, which makes one. Write signs.SignRule(...).",
    ),
    "Signed: the module of the rules": (
        "Signed(signs)",
        TypeError,
        (
            "Signed needs 1, -1, or a tensor of -1, 0 and 1. Got module. Pass e.g. Signed(-1), or a rule "
            "such as signs.dale()."
        ),
    ),
    "Signed: a mask rule": (
        'register(w.linear, {"weight": Signed(masks.lower_triangular())})',
        TypeError,
        (
            "Signed needs a rule for signs. Got the mask rule lower_triangular(0). Write "
            "MaskedSparse(lower_triangular(0))."
        ),
    ),
    "Signed: other constraints' mask": (
        'register(w.linear, {"weight": [MaskedSparse(masks.banded(0, 0)), Signed([1, -1])]})',
        ValueError,
        (
            "register cannot attach Signed to 'weight' on top of MaskedSparse. Signed needs signs that "
            "broadcast to the weight's shape, (4, 4). Got shape (2,). Use e.g. (in,) for a sign of each "
            "column, or (out, 1) for each row."
        ),
    ),
    "Signed: one sign too many": (
        'register(w.linear, {"weight": Signed(numpy.ones(5))})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. Signed needs signs that broadcast to the weight's "
            "shape, (4, 4). Got shape (5,). Use e.g. (in,) for a sign of each column, or (out, 1) for each "
            "row."
        ),
    ),
    "Signed: signs of rows as a vector": (
        'register(w.plain, {"2.weight": Signed(torch.tensor([1, -1]))})',
        ValueError,
        (
            "register cannot attach Signed to '2.weight'. Signed needs signs that broadcast to the weight's "
            "shape, (2, 4). Got shape (2,). Use e.g. (in,) for a sign of each column, or (out, 1) for each "
            "row."
        ),
    ),
    "Signed: a rule without an argument": (
        'register(w.linear, {"weight": Signed(lambda: 1)})',
        TypeError,
        "register cannot attach Signed to 'weight'. <lambda>() takes 0 positional arguments but 1 was given",
    ),
    "Signed: a rule that returns nothing": (
        'register(w.linear, {"weight": Signed(lambda weight: None)})',
        TypeError,
        (
            "register cannot attach Signed to 'weight'. Signed needs 1, -1, or a tensor of -1, 0 and 1 from "
            "the rule <lambda>. Got NoneType. Return e.g. torch.where(weight < 0, -1, 1)."
        ),
    ),
    "Signed: a rule that returns the weight": (
        'register(w.linear, {"weight": Signed(lambda weight: weight.clamp(0.25, 0.25))})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. Signed needs signs of 1, -1, or 0 for free entries "
            "from the rule <lambda>. Got 0.25. Return torch.sign(signs)."
        ),
    ),
    "Signed: a rule that returns a mask": (
        'register(w.linear, {"weight": Signed(lambda weight: weight > 0)})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. Signed needs signs of 1, -1, or 0 for free entries "
            "from the rule <lambda>. Got torch.bool. Return torch.where(mask, 1, -1)."
        ),
    ),
    "Signed: a rule that returns signs of another shape": (
        'register(w.linear, {"weight": Signed(lambda weight: torch.ones(3))})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. Signed needs signs from the rule <lambda> that "
            "broadcast to the weight's shape, (4, 4). Got shape (3,). Use e.g. (in,) for a sign of each "
            "column, or (out, 1) for each row."
        ),
    ),
    "Signed: a rule that leaves all entries free": (
        'register(w.linear, {"weight": Signed(lambda weight: 0)})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. Signed needs a sign of 1 or -1 from the rule "
            "<lambda>. Got 0, which leaves every entry free. Leave Signed out."
        ),
    ),
    "Signed: a rule that needs values, on the meta device": (
        'register(w.meta, {"weight": Signed(lambda weight: weight.sign())})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. Signed needs the values of its signs from the rule "
            '<lambda>. Got a tensor on the meta device, which has none. Create the signs with device="cpu", or '
            "materialise the weight first."
        ),
    ),
    "Signed: a weight with NaN": (
        'register(w.broken, {"weight": Signed(1)})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. Signed needs a finite weight. Got NaN or infinity in "
            "1 of 16 entries. Initialise or repair the weight first."
        ),
    ),
    "Signed: integers": (
        'register_parametrization(w.integers, "weight", Signed(1))',
        TypeError,
        (
            "Signed needs a weight of dtype float16, bfloat16, float32, float64, complex64, complex128. Got "
            "torch.int64. Convert this weight or its layer first."
        ),
    ),
    "Signed: a second one": (
        'register(w.signed, {"weight": Signed(-1)})',
        ValueError,
        (
            "register needs constraints of different classes for 'weight'. Got a second Signed. Pass it "
            "once, or, to replace an earlier one, bake first."
        ),
    ),
    "Signed: a mask on top": (
        'register(w.signed, {"weight": MaskedSparse(masks.banded(0, 0))})',
        ValueError,
        (
            "register cannot attach MaskedSparse to 'weight' on top of Signed (bake first to replace). "
            "MaskedSparse needs to be the first parametrization of its tensor: only the first may store another "
            "shape than the weight's. Got a tensor of shape (4, 4). Attach the parametrization with register, "
            'first in the list: register(model, {"layer.weight": [MaskedSparse(...), ...]}). If the tensor '
            "already has constraints, bake the layer before."
        ),
    ),
    "Signed: zeros on top": (
        'register(w.linear, {"weight": [Signed(1), ZeroDiagonal()]})',
        ValueError,
        (
            "The parametrizations of 'weight' need to hold together. Got Signed(+1, map='exp'), then "
            "ZeroDiagonal: the weight is outside the set of Signed, which needs every entry to have its sign, "
            "and an absolute value above 0 in the range of the map. Signed comes last, after the constraints "
            "that set entries to zero. Leave one of them out, or bake first, which removes earlier ones."
        ),
    ),
    "Signed: a diagonal of the other sign": (
        'register(w.linear, {"weight": [Signed(1), NegExpDiagonal()]})',
        ValueError,
        (
            "The parametrizations of 'weight' need to hold together. Got Signed(+1, map='exp'), then "
            "NegExpDiagonal: the weight is outside the set of Signed, which needs every entry to have its sign, "
            "and an absolute value above 0 in the range of the map. Signed comes last, after the constraints "
            "that set entries to zero. Leave one of them out, or bake first, which removes earlier ones."
        ),
    ),
    "PyTorch's register_parametrization: a Signed that belongs to another tensor": (
        'register_parametrization(w.linear, "weight", w.signed.parametrizations.weight[0])',
        ValueError,
        (
            "Signed needs one object for each tensor. Got one already used for a tensor of shape (4, 4). "
            "Create a new one: Signed(...)."
        ),
    ),
    "Signed: zeros": (
        "assign(w.signed, torch.zeros(4, 4))",
        ValueError,
        (
            "Signed needs every entry to have its sign, and an absolute value above 0 in the range of the map. Got a "
            "weight of shape (4, 4) where 16 of 16 entries break this, the worst 0 at row 0, column 0. "
            "Assign a weight that keeps the rule, such as what project(weight) of this parametrization "
            "returns, or create it with on_infeasible='project'."
        ),
    ),
    "Signed: a wrong sign": (
        "assign(w.signed, torch.ones(4, 4) - 2 * torch.eye(4))",
        ValueError,
        (
            "Signed needs every entry to have its sign, and an absolute value above 0 in the range of the map. Got a "
            "weight of shape (4, 4) where 4 of 16 entries break this, the worst -1 at row 0, column 0. "
            "Assign a weight that keeps the rule, such as what project(weight) of this parametrization "
            "returns, or create it with on_infeasible='project'."
        ),
    ),
    "Signed: another shape": (
        "assign(w.signed, torch.ones(4, 5))",
        ValueError,
        (
            "Signed needs a weight of shape (4, 4). Got (4, 5). Assign a weight of that shape; create a new "
            "object for another."
        ),
    ),
    "Signed: another dtype": (
        "assign(w.signed, torch.ones(4, 4).double())",
        ValueError,
        "Signed needs a weight of torch.float32 on cpu. Got torch.float64 on cpu. Assign value.to(layer.weight).",
    ),
    "Signed: signs by assignment": (
        "setattr(w.signed.parametrizations.weight[0], 'signs', -1)",
        AttributeError,
        (
            "Signed needs its signs when it is registered. Got an assignment. Bake the model, and register "
            "it with new signs."
        ),
    ),
    "Signed.signs: before registration": (
        "Signed(signs.as_is()).signs",
        ValueError,
        (
            "Signed needs to know its weight. Got no weight yet. Register it first: register(model, "
            '{"layer.weight": Signed(...)}), and read the attached copy, layer.parametrizations.weight[0].'
        ),
    ),
    "Signed.forward: before registration": (
        "Signed(signs.as_is())(torch.ones(4))",
        ValueError,
        (
            "Signed needs to know its weight. Got no weight yet. Register it first: register(model, "
            '{"layer.weight": Signed(...)}), and read the attached copy, layer.parametrizations.weight[0].'
        ),
    ),
    "Signed.forward: integers": (
        "Signed(1)(torch.ones(4).long())",
        TypeError,
        (
            "A positive map needs a stored tensor of a real floating dtype, float16 to float64. Got "
            "torch.int64. Convert the layer back with .to()."
        ),
    ),
    "Signed.contains: a list": (
        "w.signed.parametrizations.weight[0].contains([1.0])",
        TypeError,
        "Signed needs a tensor in contains. Got list.",
    ),
    "load_state_dict: a checkpoint of the other sign": (
        "w.signed.load_state_dict(w.opposite.state_dict())",
        RuntimeError,
        (
            "...While loading the 'weight': load_state_dict needs a checkpoint of Signed(+1, map='exp') for "
            "'weight'. Got one of Signed(-1, map='exp'). Load plain_state_dict of its model, the model that "
            "saved it. If only a class or an entry has a new name, pass dict(checkpoint), which skips this check. "
            "The tensor stays as it was."
        ),
    ),
    "load_state_dict: a plain dictionary of the other sign": (
        "w.signed.load_state_dict(dict(w.opposite.state_dict()))",
        RuntimeError,
        (
            "...Signed needs a checkpoint with the sign +1. Got -1. Load it into a model with Signed(-1), or "
            "load its plain_state_dict."
        ),
    ),
    "load_state_dict: signs of another shape": (
        "w.columns.load_state_dict(w.as_is.state_dict())",
        RuntimeError,
        (
            "...Signed needs 4 signs, -1, 0 or 1, in its checkpoint. Got torch.int8 of shape (16,). Load the "
            "signs together with the mask and the values, into a layer with the same constraint."
        ),
    ),
    "load_state_dict: damaged signs": (
        "w.columns.load_state_dict(w.signs_of(torch.full((4,), 3)))",
        RuntimeError,
        (
            "...Signed needs 4 signs, -1, 0 or 1, in its checkpoint. Got 3. Load the signs together with the "
            "mask and the values, into a layer with the same constraint."
        ),
    ),
    "load_state_dict: boolean signs": (
        "w.columns.load_state_dict(w.signs_of(torch.ones(5) > 0))",
        RuntimeError,
        (
            "...Signed needs 4 signs, -1, 0 or 1, in its checkpoint. Got torch.bool of shape (5,). Load the "
            "signs together with the mask and the values, into a layer with the same constraint."
        ),
    ),
    "load_state_dict: signs that are text": (
        'w.columns.load_state_dict(w.signs_of("1, -1"))',
        RuntimeError,
        (
            "...Signed needs 4 signs, -1, 0 or 1, in its checkpoint. Got str. Load the signs together with "
            "the mask and the values, into a layer with the same constraint."
        ),
    ),
    "load_state_dict: a plain checkpoint with zeros": (
        'w.signed.load_state_dict({"weight": torch.zeros(4, 4)})',
        RuntimeError,
        (
            "...While loading the plain 'weight': Signed needs every entry to have its sign, and an absolute "
            "value above 0 in the range of the map. Got a weight of shape (4, 4) where 16 of 16 entries break "
            "this, the worst 0 at row 0, column 0. Load or pass a weight that keeps the rule, such as what "
            "project(weight) of this parametrization returns, or create it with on_infeasible='project'. The "
            "tensor stays as it was."
        ),
    ),
    "Signed.set_extra_state: another sign": (
        "w.signed.parametrizations.weight[0].set_extra_state(torch.tensor([-1]))",
        ValueError,
        (
            "Signed needs a checkpoint with the sign +1. Got -1. Load it into a model with Signed(-1), or "
            "load its plain_state_dict."
        ),
    ),
    "signs.as_is: an argument": (
        "signs.as_is(torch.ones(4))",
        TypeError,
        "as_is needs other arguments. Got as_is(Tensor). Write as_is().",
    ),
    "signs.as_is: a list": (
        "signs.as_is()([1.0, -1.0])",
        TypeError,
        "as_is() needs the weight, a tensor. Got list. Pass e.g. layer.weight.",
    ),
    "signs.as_is: meta": (
        'register(w.meta, {"weight": Signed(signs.as_is())})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. as_is needs the values of the weight. Got a weight "
            "on the meta device, which has none. Use a rule that looks at the shape alone, or materialise "
            "the weight first."
        ),
    ),
    "signs.dale: out of range": (
        "signs.dale(1.5)",
        ValueError,
        ("dale needs a fraction from 0 to 1. Got 1.5. 0.3 is three tenths."),
    ),
    "signs.dale: percent": (
        "signs.dale(80)",
        ValueError,
        ("dale needs a fraction from 0 to 1. Got 80. 0.3 is three tenths."),
    ),
    "signs.dale: text": (
        'signs.dale("0.8")',
        TypeError,
        ("dale needs a number for fraction. Got str. Pass a float."),
    ),
    "signs.dale: NaN": (
        "signs.dale(torch.nan)",
        ValueError,
        ("dale needs a fraction from 0 to 1. Got nan. 0.3 is three tenths."),
    ),
    "signs.dale: a schedule": (
        "signs.dale(masks.gradual(1.0, 0.5, steps=10))",
        TypeError,
        ("dale needs a number for fraction. Got a function. Call it, as in schedule(step)."),
    ),
    "signs.dale: shuffle by position": (
        "signs.dale(0.8, True)",
        TypeError,
        (
            "dale needs other arguments. Got dale(0.8, True). Write dale(excitatory=0.8, shuffle=False, "
            "generator=None). For a seed, pass generator=torch.Generator().manual_seed(0)."
        ),
    ),
    "signs.dale: a seed": (
        "signs.dale(0.8, shuffle=True, seed=0)",
        TypeError,
        (
            "dale needs other arguments. Got dale(0.8, shuffle=True, seed=0). Write dale(excitatory=0.8, "
            "shuffle=False, generator=None). For a seed, pass generator=torch.Generator().manual_seed(0)."
        ),
    ),
    "signs.dale: an integer for a generator": (
        "signs.dale(0.8, shuffle=True, generator=0)",
        TypeError,
        "dale needs a torch.Generator or None. Got int. Seed one: torch.Generator().manual_seed(0).",
    ),
    "signs.dale: a layer": (
        "signs.dale()(w.linear)",
        TypeError,
        "dale(0.8) needs the weight, a tensor. Got Linear. Pass e.g. layer.weight.",
    ),
    "signs.dale: a convolution": (
        'register(w.convolution, {"weight": Signed(signs.dale())})',
        ValueError,
        (
            "register cannot attach Signed to 'weight'. dale needs a matrix, (out, in). Got a weight of shape "
            "(2, 2, 3). Pass a tensor of signs that broadcasts to the weight, such as (in, 1, 1) for "
            "nn.Conv2d, or (in, 1, 1, 1) for nn.ConvTranspose2d."
        ),
    ),
    "signs.dale: a bias": (
        'register(w.plain, {"0.bias": Signed(signs.dale())})',
        ValueError,
        (
            "register cannot attach Signed to '0.bias'. dale needs a matrix, (out, in). Got a weight of shape "
            "(4,). Pass a tensor of signs that broadcasts to the weight, such as (in, 1, 1) for nn.Conv2d, "
            "or (in, 1, 1, 1) for nn.ConvTranspose2d."
        ),
    ),
    "signs.SignRule: no function": (
        'signs.SignRule("mine")',
        TypeError,
        "SignRule.__init__() missing 1 required positional argument: 'build'",
    ),
    "positive.log: complex": (
        "positive.log(torch.ones(3) + 0j)",
        TypeError,
        (
            "A positive map needs a stored tensor of a real floating dtype, float16 to float64. Got "
            "torch.complex64. Convert the layer back with .to()."
        ),
    ),
    "positive.softplus: integers": (
        "positive.softplus(torch.arange(3))",
        TypeError,
        (
            "A positive map needs a stored tensor of a real floating dtype, float16 to float64. Got "
            "torch.int64. Convert the layer back with .to()."
        ),
    ),
    "positive.softplus_inverse: integers": (
        "positive.softplus_inverse(torch.arange(3))",
        TypeError,
        (
            "A positive map needs a stored tensor of a real floating dtype, float16 to float64. Got "
            "torch.int64. Convert the layer back with .to()."
        ),
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_changes_nothing(call: str, kind: type[Exception], message: str) -> None:
    world = World()
    before = world.everything()
    expected = re.escape(message).replace(r"\.\.\.", ".*")
    with pytest.raises(kind, match=rf"(?s)\A{expected}\Z"):
        eval(call, {**NAMES, "w": world})
    assert world.everything() == before


def test_every_public_name_is_tried() -> None:
    tried = " ".join(call for call, *_ in BAD.values())
    names = *parametrizations.__all__, *masks.__all__
    assert [name for name in names if name not in tried] == ["Kept", "MaskRule"]
    rules = *(f"signs.{name}" for name in signs.__all__), *(f"positive.{name}" for name in positive.__all__)
    assert [name for name in rules if name not in tried] == []
