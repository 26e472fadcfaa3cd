"""What masks with long runs do at the edges: where their numbers are brought by windows, everything else holds, too."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from parametrizations import MaskedSparse, masks
from tests.layers import everywhere_in_windows, fused


@pytest.fixture
def _windows_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere_in_windows(monkeypatch)


@pytest.mark.usefixtures("_windows_everywhere")
def test_the_tangent_of_a_matrix_from_windows_has_a_gradient() -> None:
    """As in a gradient that is taken through a forward derivative."""
    layer = fused(lambda: MaskedSparse(masks.lower_triangular(), product="dense"), 5, 5)
    stored = layer.parametrizations.weight.original
    along = torch.randn(15, requires_grad=True)
    with dual_level():
        weight = layer.parametrizations.weight[0](make_dual(stored, along))  # type: ignore[no-untyped-call]
        tangent = unpack_dual(weight).tangent  # type: ignore[no-untyped-call]
        (gradient,) = torch.autograd.grad(tangent.square().sum(), along)
    torch.testing.assert_close(gradient, 2 * along)
