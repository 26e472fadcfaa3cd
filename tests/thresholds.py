"""The sizes from which the kernels of large weights are taken. Tests lower them, so that small weights take these too.

No option selects a kernel within a product. So this file imports private modules, and no other test of products does.
"""

from __future__ import annotations

import pytest

from parametrizations._products import csr, dense, replaced_diagonal, strips
from parametrizations._torch import transforms

__all__ = ["as_eager", "lower", "with_memory", "without_mkl"]

PLACES = {
    "strip_cost": (strips, "CALL"),
    "strip_groups": (strips, "GROUPS"),
    "strip_buffer": (strips, "LARGEST"),
    "index_copy": (dense, "MANY"),
    "diagonal_block": (replaced_diagonal, "BLOCK"),
    "own_diagonal": (replaced_diagonal, "MEDIUM"),
    "dense_jvp": (transforms, "SMALL"),
}


def lower(patch: pytest.MonkeyPatch, **thresholds: int) -> None:
    """Set thresholds by their names in `PLACES`."""
    for name, value in thresholds.items():
        patch.setattr(*PLACES[name], value)


def with_memory(patch: pytest.MonkeyPatch, size: int) -> None:
    """Imitate a machine with this number of bytes, and check dense weights from as many entries on."""
    patch.setattr(dense, "LARGE", size)
    patch.setattr(dense, "memory_of", lambda _: size)


def without_mkl(patch: pytest.MonkeyPatch) -> None:
    """Imitate a torch that was built without MKL."""
    patch.setattr(csr, "HAS_MKL", False)


def as_eager(patch: pytest.MonkeyPatch) -> None:
    """Take the eager code under dispatch modes, too."""
    patch.setattr(transforms, "dispatch_modes", lambda: 0)
