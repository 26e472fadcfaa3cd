"""What recurrent layers hold beside their parameters: a list of the weights that they computed last."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["without_graphs"]


def without_graphs(module: nn.Module) -> dict[int, object]:
    """A memo for `copy.deepcopy`: computed weights of a recurrent layer, which it refuses to copy, without their graph.

    The layer computes them anew at its next step.
    """
    held = getattr(module, "_flat_weights", []) if isinstance(module, nn.RNNBase) else []
    return {id(tensor): tensor.detach() for tensor in held if isinstance(tensor, Tensor) and not tensor.is_leaf}
