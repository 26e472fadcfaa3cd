"""`fuse`: constrained layers multiply without building their weight."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from parametrizations._models.layer import become_constrained, has_fused_forward
from parametrizations._models.on_entries import entries_of
from parametrizations._products.choice import Explanation
from parametrizations._torch.chains import chains, originals, steps
from parametrizations._torch.shared_class import can_share
from parametrizations.parametrization import Parametrization

__all__ = ["explain", "fuse"]

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model) -> Model:
    """Make every `nn.Linear` in the model whose weight has one parametrization multiply through it.

    The output and every gradient stay what they are; the weight is not built where its structure makes
    something cheaper. A layer takes part that was registered with PyTorch's own function, or by `register` with
    ``fuse=False``, and whose parametrization is a `Parametrization`: its ``linear`` multiplies. With any other one the
    layer multiplies densely. A subclass of `nn.Linear` that overrides ``forward`` keeps its own. A further
    parametrization on the weight that acts on the stored entries alone, by ``on_entries``, changes these; with any
    other one the layer multiplies densely again. PyTorch's `remove_parametrizations` gives back the plain layer.

    An input that is infinite or NaN reaches exactly the outputs of its row that a kept entry connects it to where
    `explain` is ``"elementwise"`` or ``"csr"``: what is not stored is not multiplied. Where it is ``"strips"`` it also
    reaches the other outputs of each strip or block that its column lies in, and where it is ``"dense"`` or
    ``"strips"`` every output of its row, since ``0 * inf`` is NaN: under `ZeroDiagonal` the one of its own index, too.
    In batches below the one that `explain` names, ``"strips"`` is dense as well.
    Likewise for gradients, from an output to the inputs. Other rows stay as they are.

    Tensor parallelism (`torch.distributed.tensor.parallel.parallelize_module`) replaces parameters by their names,
    which constrained layers, PyTorch's own too, do not have: bake those first, or leave them out of its plan.

    Args:
        model: Changed in place. Fusing again changes nothing.

    Returns:
        The same model.

    Raises:
        TypeError: If it is no model.
        ValueError: If a layer's class is not the one that `register_parametrization` gave it, such as after
            ``fully_shard``. No layer is changed then.

    Example:
        >>> import torch
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> from parametrizations import Diagonal
        >>> with torch.device("meta"):
        ...     layer = register_parametrization(nn.Linear(2**20, 2**20), "weight", Diagonal())
        >>> fuse(layer.to_empty(device="cpu"))(torch.ones(8, 2**20)).shape
        torch.Size([8, 1048576])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fuse needs a model. Got {type(model).__name__}. Pass a torch.nn.Module.")
    layers = [module for module in model.modules() if _can_fuse(module)]
    for layer in layers:
        if not can_share(layer):
            raise ValueError(
                "fuse needs layers with the class that register_parametrization gives them. "
                f"Got {type(layer).__name__}. Fuse before fully_shard, or whatever else changed the class."
            )
    for layer in layers:
        become_constrained(layer, fused=True)
    return model


def explain(layer: nn.Module) -> Explanation:
    """How a layer multiplies with its weight, and why.

    ==================  ====================================================================================
    name                the product
    ==================  ====================================================================================
    ``"dense"``         with the weight, which is built before
    ``"elementwise"``  `Diagonal`: one multiply-add for each output
    ``"strips"``        `ZeroDiagonal`, `NegExpDiagonal`: of a large matrix only blocks on the diagonal are copied
    ``"strips"``       `MaskedSparse`: with dense strips or blocks that cover the kept entries
    ``"csr"``           `MaskedSparse`: with the kept entries alone
    ``"own"``           with the method ``linear`` of a parametrization of your own
    ==================  ====================================================================================

    Args:
        layer: A layer of any kind, constrained or not.

    Raises:
        TypeError: If it is no layer.

    Example:
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> from parametrizations import Diagonal
        >>> layer = register_parametrization(nn.Linear(3, 3), "weight", Diagonal())
        >>> explain(layer)
        Explanation(product='dense', why='the layer is not fused')
        >>> explain(fuse(layer))
        Explanation(product='elementwise', why='one multiply-add for each output')
    """
    if not isinstance(layer, nn.Module):
        raise TypeError(f"path needs a layer. Got {type(layer).__name__}. Pass a torch.nn.Module.")
    if "weight" not in chains(layer):
        return Explanation("dense", "the weight has no parametrization")
    if not has_fused_forward(layer):
        return Explanation("dense", "the layer is not fused")
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return Explanation("dense", "nn.MultiheadAttention multiplies with the weight of this layer by itself")
    chain = chains(layer)["weight"]
    first = steps(chain)[0]
    if not isinstance(first, Parametrization):
        return Explanation("dense", "the parametrization is not one of this library's")
    if entries_of(chain) is None:
        return Explanation("dense", "a further parametrization needs the whole weight")
    return first.explain(originals(chain)["original"])


def _can_fuse(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and "weight" in chains(module) and not has_fused_forward(module)
