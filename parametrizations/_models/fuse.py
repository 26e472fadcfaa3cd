"""`fuse`: let layers use the products of their constraints. `explain`: the product of a layer."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from parametrizations._models.constrained import entries_of
from parametrizations._models.layer import constrained_class, has_fused_forward
from parametrizations._products.choice import NOT_A_MATRIX, Explanation
from parametrizations._torch.chains import chains, originals, steps
from parametrizations._torch.loops import forget
from parametrizations._torch.private import buffers, is_claimed, parameters
from parametrizations._torch.shared_class import can_share, plain_class
from parametrizations.parametrization import Parametrization

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model) -> Model:
    """Fuse every `nn.Linear` with a parametrized weight: the layer then uses the product of its constraint.

    `register` fuses layers itself. `fuse` is for layers constrained by PyTorch's ``register_parametrization``. Outputs
    and gradients stay the same up to the rounding of sums. The first parametrization multiplies in its ``linear``,
    which materialises the weight only if this is faster. Later parametrizations change the stored entries, by their
    ``on_entries``. If a later parametrization cannot do this, or if the first is not a `Parametrization`, the product
    is ``"dense"``. A subclass of `nn.Linear` that overrides ``forward`` keeps this ``forward``, so it is not fused.
    `remove_parametrizations` restores the plain layer. `parallelize_module` of `torch.distributed.tensor.parallel`
    needs plain parameters: bake such layers first, or leave them out of its plan.

    An infinite or NaN input reaches the outputs that a kept entry connects it to. With ``"elementwise"`` and ``"csr"``
    it reaches only those; with ``"strips"`` all outputs of each strip or block with this input among its columns; with
    ``"dense"`` and ``"replaced-diagonal"`` all outputs of its row of the batch, since ``0 * inf`` is NaN. Gradients
    behave alike, from an output to the inputs. Other rows of the batch are not affected.

    Args:
        model: Changed in place; fusing it again changes nothing.

    Returns:
        The same model.

    Raises:
        TypeError: If ``model`` is not a module.
        ValueError: If another function, such as ``fully_shard``, has changed a layer's class. The model is unchanged.

    Example:
        >>> import torch
        >>> from parametrizations import Diagonal
        >>> with torch.device("meta"):
        ...     layer = nn.utils.parametrize.register_parametrization(nn.Linear(2**20, 2**20), "weight", Diagonal())
        >>> fuse(layer.to_empty(device="cpu"))(torch.ones(8, 2**20)).shape
        torch.Size([8, 1048576])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fuse needs a model. Got {type(model).__name__}. Pass a torch.nn.Module.")
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    layers = [layer for layer in linear if "weight" in chains(layer) and not has_fused_forward(layer)]
    for layer in layers:
        if not can_share(layer):
            raise ValueError(
                "fuse needs layers with the class from register_parametrization. "
                f"Got {type(layer).__name__}. Fuse before fully_shard and other functions that change the class."
            )
    kinds = [constrained_class(layer, chains(layer), fused=True) for layer in layers]
    forget()
    for layer, kind in zip(layers, kinds, strict=True):
        object.__setattr__(layer, "__class__", kind)
    return model


def explain(layer: nn.Module) -> Explanation:
    """The product that a layer uses, and the reason.

    =======================  ===========================================================================================
    product                  multiplies
    =======================  ===========================================================================================
    ``"dense"``              with the dense weight
    ``"elementwise"``        `Diagonal`: each input with one number
    ``"replaced-diagonal"``  `ZeroDiagonal`, `NegExpDiagonal`: with the stored matrix, but another diagonal
    ``"strips"``             `MaskedSparse`: strips of rows, each from the strip's first to its last kept column
    ``"csr"``                `MaskedSparse`: the kept entries alone
    ``"own"``                with the method ``linear`` of your own constraint
    =======================  ===========================================================================================

    To replace the diagonal, ``"replaced-diagonal"`` copies only the blocks on it, of up to 512 x 512. Inside
    `torch.nn.utils.parametrize.cached`, the layer uses a memoised dense weight, not ``"replaced-diagonal"``.

    Args:
        layer: A layer of any kind, constrained or not.

    Returns:
        A named tuple ``(product, why)``.

    Raises:
        TypeError: If ``layer`` is not a module.

    Example:
        >>> from parametrizations import Diagonal, explain, register
        >>> explain(nn.Linear(3, 3))
        Explanation(product='dense', why='the weight has no constraint')
        >>> explain(register(nn.Linear(3, 3), {"weight": Diagonal()}))
        Explanation(product='elementwise', why='one multiplication for each output')
    """
    if not isinstance(layer, nn.Module):
        raise TypeError(f"explain needs a layer. Got {type(layer).__name__}. Pass a torch.nn.Module.")
    chain = chains(layer).get("weight")
    if chain is None:
        return _unconstrained(layer)
    first = steps(chain)[0]
    if isinstance(first, Parametrization) and len(first._known_shape) != 2:
        return NOT_A_MATRIX
    if not isinstance(layer, nn.Linear):
        return Explanation("dense", f"{plain_class(layer).__name__} reads the dense weight itself")
    if not has_fused_forward(layer):
        return Explanation("dense", "the layer is not fused")
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return Explanation("dense", "nn.MultiheadAttention reads the dense weight of this layer directly")
    if is_claimed(chain):
        return Explanation("dense", "a hook, or a replaced forward, runs when the weight is computed")
    if not isinstance(first, Parametrization):
        return Explanation("dense", "the constraint is third-party")
    if entries_of(chain) is None:
        return Explanation("dense", "a later constraint needs the whole weight")
    return first.explain(originals(chain)["original"])


def _unconstrained(layer: nn.Module) -> Explanation:
    if "weight" in parameters(layer) or "weight" in buffers(layer):
        return Explanation("dense", "the weight has no constraint")
    why = "reads its tensors itself" if chains(layer) else "has no weight: pass one of its layers, or use summary"
    return Explanation("dense", f"{plain_class(layer).__name__} {why}")
