"""The choice of path: how a fused layer multiplies, and why.

The crossovers were measured by ``python -m benchmarks`` (see benchmarks/results.md).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from parametrizations._torch.private import is_autocast_anywhere
from parametrizations._torch.transforms import is_traced_for_a_file

__all__ = [
    "AUTOCAST",
    "CSR",
    "ELEMENT_WISE",
    "EMPTY",
    "FORCED",
    "OTHER_DEVICE",
    "OWN",
    "PLAIN",
    "SCATTERED",
    "UNREGISTERED",
    "Explanation",
    "Product",
    "entries_path",
    "is_copied",
    "product_dtype",
    "replaced_diagonal_path",
]

Product = Literal["auto", "dense", "elementwise", "replaced-diagonal", "strips", "csr"]


class Explanation(NamedTuple):
    """A way to multiply, ``"dense"`` or cheaper, and the reason for it in words."""

    product: str
    why: str


FORCED = Explanation("dense", "asked for with product='dense'")
PLAIN = Explanation("dense", "the parametrization has no product of its own")
UNREGISTERED = Explanation("dense", "nothing is registered yet")
OWN = Explanation("own", "the parametrization has a product of its own")
SAVED = Explanation("dense", "what torch.export and torch.jit.trace save needs nothing of this library")
OTHER_DTYPE = Explanation("dense", "only float32 and float64 products have a cheaper path that loses no digits")
OTHER_DEVICE = Explanation("dense", "on a GPU: dense is the measured choice")
SMALL_MATRIX = Explanation("dense", "the matrix is too small for anything else to be faster")
ELEMENT_WISE = Explanation("elementwise", "one multiply-add for each output")
STRIPS = Explanation("replaced-diagonal", "only blocks on the diagonal are copied")
EMPTY = Explanation("dense", "the weight has no entries")
SCATTERED = Explanation("dense", "so many entries are kept, or so few in all, that nothing else is clearly faster")
CSR = Explanation("csr", "the cost follows the kept entries")

# Measured 2026-11-21, torch 2.13.0 (CPU build, MKL), two threads of a shared x86-64 machine.
STRIPS_FROM = 640 * 640

AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind))
"""Device types that have autocast; the meta device has not."""

PRECISE = (torch.float32, torch.float64)
"""What a cheaper product loses no digits in."""


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a product with ``x`` is computed in, under autocast another than its own."""
    if not is_autocast_anywhere():
        return x.dtype
    kind = x.device.type
    if x.dtype is torch.float64 or not x.is_floating_point() or kind not in AUTOCAST:
        return x.dtype
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def is_copied(x: Tensor, product: Product) -> bool:
    """Whether the path of an eager matrix is `SMALL_MATRIX`, without asking for the rest."""
    return product == "auto" and x.numel() < STRIPS_FROM


def replaced_diagonal_path(x: Tensor, product: Product) -> Explanation:
    """For a stored matrix ``(out, in)`` whose diagonal is another one in the weight."""
    if product == "dense":
        return FORCED
    if is_traced_for_a_file():  # a trace has no numbers to compare
        return SAVED
    if x.numel() < STRIPS_FROM and product == "auto":
        return SMALL_MATRIX
    if x.device.type != "cpu":
        return OTHER_DEVICE
    return STRIPS if product_dtype(x) in PRECISE else OTHER_DTYPE


def entries_path(chosen: Explanation, x: Tensor) -> Explanation:
    """For the way that was chosen for a mask, and a tensor like the stored one."""
    if chosen.product == "dense":
        return chosen
    if is_traced_for_a_file():
        return SAVED
    return chosen if chosen.product != "csr" or product_dtype(x) in PRECISE else OTHER_DTYPE
