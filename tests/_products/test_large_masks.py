"""What masks with long runs do at the edges: where their numbers are brought by windows, everything else holds, too."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from parametrizations import MaskedSparse, masks
from tests.layers import dense_output, everywhere_in_windows, fused, tensors_of


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


def test_a_mask_that_has_windows_in_strips_alone_takes_at_most_12_bytes_a_number() -> None:
    """Its rows have an odd length and are half empty: the whole weight is written one by one."""
    layer = fused(lambda: MaskedSparse(masks.lower_triangular()), 1031, 777)
    parametrization = layer.parametrizations.weight[0]
    assert parametrization._form.has_runs
    assert parametrization._whole.runs is None
    held = {tensor.data_ptr(): tensor.nbytes for one in vars(parametrization).values() for tensor in tensors_of(one)}
    assert sum(held.values()) <= 12 * parametrization.positions.numel() + 16 * (777 + 1031)
    for batch in (1, 64):
        inputs = torch.randn(batch, 1031)
        torch.testing.assert_close(layer(inputs), dense_output(layer, inputs))
