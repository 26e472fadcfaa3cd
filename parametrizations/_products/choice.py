"""The choice of the product, and the reason for it.

Costs were measured by ``python -m benchmarks --products`` (benchmarks/products.md).
"""

from __future__ import annotations

from math import inf
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from parametrizations._products.csr import CSR
from parametrizations._products.form import Dense, MaskForm
from parametrizations._products.operands import product_dtype
from parametrizations._products.strips import CALL, Blocks, Strips, area_of, windows
from parametrizations._torch.transforms import is_traced_for_a_file

Product = Literal["auto", "dense", "elementwise", "replaced-diagonal", "strips", "csr"]


class Explanation(NamedTuple):
    """The result of `explain`: the ``product`` that a layer takes, such as ``"dense"``, and the reason, ``why``."""

    product: str
    why: str


ASKED = Explanation("dense", "product='dense' is set")
PLAIN = Explanation("dense", "the constraint has no product of its own")
UNREGISTERED = Explanation("dense", "nothing is registered yet")
OWN = Explanation("own", "the constraint overrides linear")
EXPORTED = Explanation("dense", "exported files must not depend on this library")
OTHER_DTYPE = Explanation("dense", "csr and replaced-diagonal are for float32 and float64")
OTHER_DEVICE = Explanation("dense", "csr and replaced-diagonal need the CPU; strips have to be set")
ELEMENTWISE = Explanation("elementwise", "one multiplication for each output")
EMPTY = Explanation("dense", "the weight has no entries")
AXES = Explanation("dense", "axes are given")
NOT_A_MATRIX = Explanation("dense", "the weight is not a matrix")
REPLACED = Explanation("replaced-diagonal", "only blocks on the diagonal are copied, not the whole weight")

PRECISE = (torch.float32, torch.float64)


def form_of(shape: torch.Size, positions: Tensor, product: Product) -> tuple[MaskForm, Explanation]:
    """The form of a mask for ``product``, or the cheapest for ``"auto"``; and the `Explanation`.

    The costs were measured: nanoseconds for a batch of 64 rows on one thread. With two threads, all are half as large.

    Args:
        shape: The shape of the weight. All products but ``"dense"`` are for ``(out, in)``.
        positions: The sorted row-major positions of the kept entries, on the device of the layer.
        product: The option ``product`` of `MaskedSparse`.
    """
    if len(shape) != 2:
        return Dense.of(shape, positions), NOT_A_MATRIX
    size, kept = shape.numel(), positions.numel()
    if not size or product == "dense":
        return Dense.of(shape, positions), ASKED if size else EMPTY
    if positions.device.type != "cpu" and product != "strips":
        return Dense.of(shape, positions), OTHER_DEVICE
    fixed, dense = 210_000 + 375 * sum(shape), 90_000 + 5.3 * size + 2.6 * kept
    csr = fixed + 20 * kept
    blocks = None if product == "csr" else Blocks.of(shape, positions)
    least = inf if product == "strips" else min(0.9 * dense, csr)
    cover = [] if product == "csr" or blocks else windows(shape, positions.cpu(), most=least / 8.4)
    area, calls = (kept, 1) if blocks else (area_of(cover), len(cover))
    strips = 155_000 + 8.4 * (area + CALL * calls)
    if (blocks or cover) and strips < least:
        if blocks is not None:
            return blocks, Explanation("strips", f"{_count(blocks.blocks, 'block')} in one batched product")
        why = f"{_count(len(cover), 'strip')} over {_share(area, size)} of the weight"
        return Strips.of(shape, positions, cover), Explanation("strips", why)
    if product == "csr" or csr < 0.9 * dense:
        return CSR.of(shape, positions), Explanation("csr", f"{_share(kept, size)} kept: only these are multiplied")
    small = f"{' x '.join(map(str, shape))}: too small for CSR"
    why = small if fixed > 0.9 * dense else f"{_share(kept, size)} kept: dense is faster"
    return Dense.of(shape, positions), Explanation("dense", why)


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _count(number: int, what: str) -> str:
    return f"{number} dense {what}{'' if number == 1 else 's'}"


def explain_replaced_diagonal(x: Tensor, product: Product, large: int) -> Explanation:
    """The product if the weight is ``x`` with another main diagonal; for ``"auto"``, dense below ``large`` entries."""
    if product == "dense":
        return ASKED
    if is_traced_for_a_file():  # before numel(), since sizes are tensors under a tracer
        return EXPORTED
    if x.numel() < large and product == "auto":
        return Explanation("dense", f"{' x '.join(map(str, x.shape))}: too small for replaced-diagonal")
    if x.device.type != "cpu":
        return OTHER_DEVICE
    return REPLACED if product_dtype(x) in PRECISE else OTHER_DTYPE


def explain_form(chosen: Explanation, x: Tensor) -> Explanation:
    """The ``chosen`` product of a mask; dense in an export, or if it is CSR and the dtype is not float32 or float64."""
    if chosen.product == "dense":
        return chosen
    if is_traced_for_a_file():
        return EXPORTED
    return chosen if chosen.product != "csr" or product_dtype(x) in PRECISE else OTHER_DTYPE
