from __future__ import annotations

import io

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from parametrizations import Diagonal, fuse
from tests.layers import constrained, dense_output, fused, stored

N = 512


@pytest.mark.parametrize("shape", [(3, 3), (7, 3), (3, 7)])
def test_the_weight_is_the_diagonal_matrix(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    layer = constrained(Diagonal(), weight)
    expected = torch.zeros(shape)
    for i in range(3):
        expected[i, i] = weight[i, i]
    assert torch.equal(layer.weight, expected)
    assert torch.equal(stored(layer), weight.diagonal())


def test_a_checkpoint_is_as_small_as_its_vector() -> None:
    layer = constrained(Diagonal(), torch.randn(N, N))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    assert file.tell() < 4 * N + 2500  # the vector and the headers of the archive
    assert len(save(layer.state_dict())) < 4 * N + 200
    assert stored(layer).is_contiguous()
    assert stored(layer).untyped_storage().nbytes() == 4 * N


def test_a_checkpoint_loads_with_weights_only_and_safetensors() -> None:
    layer = constrained(Diagonal(), torch.randn(N, N))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    for state in (torch.load(file, weights_only=True), load(save(layer.state_dict()))):
        other = constrained(Diagonal(), torch.randn(N, N))
        other.load_state_dict(state)
        assert torch.equal(other.weight, layer.weight)


def test_it_keeps_the_identity_of_the_parameter() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight
    register_parametrization(layer, "weight", Diagonal())
    assert stored(layer) is before


def test_no_gradient_but_the_diagonals_reaches_the_vector() -> None:
    layer = constrained(Diagonal(), torch.randn(3, 4))
    weights = torch.arange(12.0).view(3, 4)
    (layer.weight * weights).sum().backward()
    gradient = stored(layer).grad
    assert gradient is not None
    assert torch.equal(gradient, weights.diagonal())


def test_autocast_leaves_a_complex_product_as_it_is() -> None:
    layer = fuse(register_parametrization(nn.Linear(6, 4, dtype=torch.complex64), "weight", Diagonal()))
    inputs = torch.randn(2, 6, dtype=torch.complex64)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(inputs)
    assert output.dtype is torch.complex64
    torch.testing.assert_close(output, dense_output(layer, inputs))


def test_a_wide_layer_trains_without_the_pass_that_addcmul_adds_to_its_gradient() -> None:
    inputs = torch.randn(2, 512, requires_grad=True)
    wide, narrow = (fused(Diagonal, size, size) for size in (512, 511))
    assert wide(inputs).grad_fn.name() == "AddBackward0"
    assert narrow(inputs[:, :511]).grad_fn.name() == "AddcmulBackward0"
    with torch.no_grad():
        torch.testing.assert_close(wide(inputs), dense_output(wide, inputs))
    torch.testing.assert_close(wide(inputs), dense_output(wide, inputs))
