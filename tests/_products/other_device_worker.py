"""Run in a separate process, because it adds a device to torch: print the errors of fused layers by name, as JSON.

Tensors on the device have shapes but no values. Reading a value, which would wait for a GPU, fails. So does mixing in a
tensor on the CPU.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from parametrizations import ZeroDiagonal, explain, fuse
from tests.chains import CHAINS, Chain
from tests.layers import PRODUCTS, fused
from tests.thresholds import as_eager, lower

NAME = "elsewhere"


def dense(make: Callable[[], Any]) -> Any:
    parametrization = make()
    parametrization.product = "dense"
    return parametrization


def chained(chain: Chain) -> Any:
    return fuse(chain.layer())


LAYERS: dict[str, Callable[[], Any]] = {
    **{name: partial(fused, make) for name, make in PRODUCTS.items()},
    **{f"{name}-dense": partial(fused, partial(dense, make)) for name, make in PRODUCTS.items()},
    **{name: partial(chained, chain) for name, chain in CHAINS.items() if "-square-float32" in name},
}


class Asks(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input, x, bias) if x.max() > 0 else input


class Strays(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, self(x).index_select(1, torch.arange(x.shape[1])), bias)


class Brings(ZeroDiagonal):
    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return super().linear(input, x * torch.tensor(2.0), bias)


BROKEN: dict[str, Callable[[], nn.Module]] = {kind.__name__: kind for kind in (Asks, Strays, Brings)}


class Moved(TorchFunctionMode):
    """Inside, deep copies have their tensors on the other device."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), torch.empty(tensor.shape, dtype=tensor.dtype, device=NAME))


class OnOneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations on CPU tensors. Torch itself accepts a CPU tensor of one number."""

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        homes = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        assert homes <= {NAME}, f"{func} takes tensors on {sorted(homes)}"
        return func(*args, **(kwargs or {}))


def moved(layer: Any) -> Any:
    memo: dict[int, Any] = {id(own): nn.Parameter(torch.empty(own.shape, device=NAME)) for own in layer.parameters()}
    home = getattr(getattr(layer.parametrizations.weight[0], "_form", None), "__dict__", {}).get("home")
    if home is not None:  # equal blocks keep no tensor
        memo[id(home)] = torch.device(NAME, 0)
    with Moved():
        return copy.deepcopy(layer, memo)


def wrong(layer: Any) -> str:
    """The error of the layer's forward and backward pass on the other device, or an empty string."""
    if (product := explain(layer).product) in ("csr", "replaced-diagonal"):  # for the CPU only
        layer.parametrizations.weight[0].product = product = "dense"
    with FakeTensorMode():
        there, inputs = moved(layer), torch.empty(2, layer.in_features, device=NAME, requires_grad=True)
        try:
            with OnOneDevice():  # type: ignore[no-untyped-call]
                there(inputs).sum().backward()
        except Exception as error:  # report every error
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return "" if explain(there).product == product else f"Its product is {explain(there)}."


if __name__ == "__main__":
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME)
    patch = pytest.MonkeyPatch()
    lower(patch, strip_cost=4)  # so that small matrices have several strips
    as_eager(patch)
    broken = {name: partial(fused, make) for name, make in BROKEN.items()}
    print(json.dumps({name: wrong(make()) for name, make in (LAYERS | broken).items()}))
