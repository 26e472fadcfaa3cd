"""Schedules: the density, or the fraction of moved entries, at each training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

from parametrizations._checks import by_signature
from parametrizations.masks.arguments import check_density, check_fraction, integers


@by_signature
def cosine(start: float, *, steps: int) -> Callable[[int], float]:
    """From ``start`` at step 0 down to 0 at ``steps``, along half a cosine: the fraction of a mask to move.

    ``start / 2 * (1 + cos(pi * step / steps))``, and 0 after ``steps``: Evci et al., *Rigging the Lottery*, 2020, arXiv
    1911.11134, section 3, who move 0.3 at first and stop after three quarters of the training.

    Args:
        start: The fraction at step 0, from 0 to 1.
        steps: The length of the schedule, at least 1.

    Returns:
        A function from the step to the fraction, for `evolutionary` and `rigl`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range.

    Example:
        >>> schedule = cosine(0.3, steps=100)
        >>> [round(schedule(step), 3) for step in (0, 25, 50, 100, 200)]
        [0.3, 0.256, 0.15, 0.0, 0.0]
    """
    start, steps = check_fraction("cosine", start), _steps("cosine", steps)
    return partial(_at, "cosine", lambda part: start / 2 * (1 + math.cos(math.pi * part)), steps)


@by_signature
def gradual(start: float, end: float, *, steps: int) -> Callable[[int], float]:
    """A density from ``start`` at step 0 to ``end`` at ``steps``: fast at first, while much can be spared.

    ``end + (start - end) * (1 - step / steps) ** 3``: Zhu and Gupta, *To prune, or not to prune*, 2017, arXiv
    1710.01878, equation 1. In the paper a pruned weight keeps its value outside the mask and may come back; here its
    value is lost.

    Args:
        start: The density at step 0, above 0 and at most 1.
        end: The density from ``steps`` on, above 0 and at most 1.
        steps: The length of the schedule, at least 1.

    Returns:
        A function from the step to the density, for `magnitude` and `global_magnitude`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range.

    Example:
        >>> schedule = gradual(1.0, 0.1, steps=100)
        >>> [round(schedule(step), 3) for step in (0, 25, 50, 100, 200)]
        [1.0, 0.48, 0.213, 0.1, 0.1]
    """
    start, end, steps = check_density("gradual", start), check_density("gradual", end), _steps("gradual", steps)
    return partial(_at, "gradual", lambda part: end + (start - end) * (1 - part) ** 3, steps)


def _at(name: str, value: Callable[[float], float], steps: int, step: int) -> float:
    """The value at ``step``; refuses a tensor with dimensions.

    `MaskedSparse` passes such a tensor, the weight, if the user gives it a schedule as the mask rule.
    """
    if isinstance(step, Tensor) and step.dim():
        raise TypeError(
            f"{name} needs a step, one number. Got a tensor of shape {tuple(step.shape)}. A schedule is not a mask "
            "rule. Give its value to one, as in masks.magnitude(density=schedule(step))."
        )
    return value(min(max(step, 0) / steps, 1))


def _steps(name: str, steps: object) -> int:
    (steps,) = integers(name, steps)
    if steps < 1:
        raise ValueError(f"{name} needs at least 1 step. Got {steps}. Pass the number of steps after which it ends.")
    return steps
