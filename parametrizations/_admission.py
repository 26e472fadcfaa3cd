"""What a weight has to be before a parametrization takes it, and what is said where it is not."""

from __future__ import annotations

import torch
from torch import Tensor

from parametrizations._torch.caller import is_assignment

__all__ = ["asked", "is_finite", "outside", "require_choice", "require_finite", "require_kind"]


def require_kind(name: str, weight: object, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse, in a parametrization's name, what is no dense tensor of one of the dtypes."""
    if not isinstance(weight, Tensor) or weight.layout is not torch.strided:
        kind = weight.layout if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"{name} needs a dense tensor. Got {kind}. Pass a torch.Tensor, made dense.")
    if weight.dtype not in dtypes:
        listed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(
            f"{name} needs a weight of dtype {listed}. Got {weight.dtype}. Convert the layer or the value first."
        )


def require_finite(name: str, weight: Tensor) -> None:
    """Refuse NaN and infinity."""
    if not is_finite(weight):
        bad = int((~torch.isfinite(weight)).sum())
        raise ValueError(
            f"{name} needs a finite weight. Got {bad} of {weight.numel()} entries that are NaN or "
            "infinite. Initialise or repair the weight first."
        )


def require_choice(name: str, option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse an option that is none of its values."""
    if value not in choices:
        allowed = " or ".join(map(repr, choices))
        raise ValueError(f"{name} needs {option} to be {allowed}. Got {value!r}.")


def outside(name: str, needs: str, weight: Tensor, excess: Tensor) -> str:
    """That a weight is outside the set: by how many entries, and which is the worst."""
    row, column = divmod(int(excess.argmax()), weight.shape[1])
    return (
        f"{name} needs {needs}. Got a weight of shape {tuple(weight.shape)} where "
        f"{int((excess > 0).sum())} of {weight.numel()} entries break this, the largest "
        f"{weight[row, column].item():.6g} at row {row}, column {column}. {asked()} a weight that keeps the rule, such "
        "as what project(weight) of this parametrization returns, or create it with on_infeasible='project'."
    )


def asked() -> str:
    """What the user did who meets an error; a checkpoint is loaded without PyTorch's assignment."""
    return "Assign" if is_assignment() else "Load or pass"


def is_finite(weight: Tensor) -> bool:
    """Whether every entry is finite. A weight on the meta device has no entries that are not."""
    # A finite sum has finite terms, and needs no memory. A sum may overflow, so the entries decide then.
    return weight.is_meta or bool(weight.sum().isfinite()) or bool(torch.isfinite(weight).all())
