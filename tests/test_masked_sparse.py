from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.nn.utils.parametrize import register_parametrization
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from parametrizations import MaskedSparse, Parametrization, bake, explain, masks, plain_state_dict, register
from tests.cases import checkerboard, weight
from tests.layers import INPUTS, constrained, dense_output, linear, stored

SHAPE = (4, 6)
VALUES = "parametrizations.weight.original"
MASK = "parametrizations.weight.0._extra_state"


def sparse(mask: Any = None) -> Any:
    return constrained(MaskedSparse(checkerboard(SHAPE) if mask is None else mask), torch.randn(SHAPE))


def mask_of(layer: Any) -> Tensor:
    mask = layer.parametrizations.weight[0].mask
    assert isinstance(mask, Tensor)
    return mask


def test_the_weight_is_the_masked_matrix() -> None:
    weight = torch.randn(SHAPE)
    layer = constrained(MaskedSparse(checkerboard(SHAPE)), weight)
    assert torch.equal(layer.weight, torch.where(checkerboard(SHAPE), weight, 0))
    assert torch.equal(stored(layer), weight[checkerboard(SHAPE)])
    assert torch.equal(mask_of(layer), checkerboard(SHAPE))


def test_only_kept_entries_get_a_gradient() -> None:
    layer = sparse()
    factors = torch.randn(SHAPE)
    (layer.weight * factors).sum().backward()
    assert torch.equal(stored(layer).grad, factors[checkerboard(SHAPE)])  # type: ignore[arg-type]


def test_a_rule_is_shown_the_weight() -> None:
    weight = torch.randn(SHAPE)
    layer = constrained(MaskedSparse(lambda shown: shown > 0), weight)
    assert torch.equal(layer.weight, weight.clamp(min=0))


def test_the_callers_mask_is_copied() -> None:
    mask = checkerboard(SHAPE)
    parametrization = MaskedSparse(mask)
    mask.fill_(True)
    layer = constrained(parametrization, torch.randn(SHAPE))
    assert torch.equal(mask_of(layer), checkerboard(SHAPE))


def test_an_array_is_a_mask_too() -> None:
    array = numpy.asarray(checkerboard(SHAPE))[::-1]
    array.flags.writeable = False
    mask = torch.tensor(array.copy())
    for given in (array, lambda _: array):
        assert torch.equal(mask_of(sparse(given)), mask)
    with pytest.raises(TypeError, match=r"needs a mask of dtype torch.bool. Got torch.int64"):
        MaskedSparse(array.astype(int))


@pytest.mark.filterwarnings("ignore:.*keeps none of")
def test_the_mask_is_not_kept_beside_the_positions() -> None:
    mask = torch.zeros(100, 100, dtype=torch.bool)
    layer = constrained(MaskedSparse(mask), torch.randn(100, 100))
    assert len(pickle.dumps(layer.parametrizations.weight[0])) < mask.numel()
    assert "mask=tensor of shape (100, 100)," in repr(layer.parametrizations.weight[0])


def test_before_registration_it_can_be_sent_to_another_process() -> None:
    read = pickle.loads(pickle.dumps(MaskedSparse(checkerboard(SHAPE))))
    assert torch.equal(mask_of(constrained(read, torch.randn(SHAPE))), checkerboard(SHAPE))


def test_before_registration_it_knows_its_members_if_it_knows_its_mask() -> None:
    parametrization, inside = MaskedSparse(checkerboard(SHAPE)), torch.where(checkerboard(SHAPE), torch.randn(SHAPE), 0)
    assert parametrization.contains(inside)
    assert not parametrization.contains(torch.ones(SHAPE))
    assert not parametrization.contains(inside.mT)
    with pytest.raises(ValueError, match="needs to know its weight"):
        MaskedSparse(masks.random(density=0.5)).contains(inside)


def test_copies_before_registration_draw_different_masks_from_one_generator() -> None:
    parametrization = MaskedSparse(masks.random(density=0.5, generator=torch.Generator().manual_seed(0)))
    one, other = (constrained(copy.deepcopy(parametrization), torch.ones(8, 8)) for _ in range(2))
    assert not torch.equal(one.weight, other.weight)


def test_the_index_takes_at_most_12_bytes_a_number_and_is_no_parameter_or_buffer() -> None:
    layer = sparse()
    positions = layer.parametrizations.weight[0].positions
    assert positions.dtype is torch.int32
    assert torch.equal(positions, positions.sort().values)
    assert layer.parametrizations.weight[0].get_extra_state().nbytes <= 12 * positions.numel()
    assert [name for name, _ in layer.named_parameters()] == [VALUES]
    assert not list(layer.buffers())


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(SHAPE), TypeError, r"needs a mask of dtype torch.bool. Got torch.float32"),
        ([[True]], TypeError, r"needs a boolean tensor or a mask rule. Got list"),
        (
            torch.ones(3, dtype=torch.bool),
            ValueError,
            r"needs a mask of the weight's shape, \(4, 6\). Got shape \(3,\)",
        ),
        (
            torch.ones((), dtype=torch.bool),
            ValueError,
            r"needs a mask of at least 1 dimension. Got shape \(\)",
        ),
        (
            torch.ones(6, 4, dtype=torch.bool),
            ValueError,
            r"needs a mask of the weight's shape, \(4, 6\). Got shape \(6, 4\)",
        ),
        (
            torch.ones(SHAPE, dtype=torch.bool, device="meta"),
            ValueError,
            r"needs a dense or sparse mask with values",
        ),
        (lambda w: w, TypeError, r"torch.bool from the rule <lambda>. Got torch.float32. Return a boolean"),
        (lambda w: None, TypeError, r"torch.bool from the rule <lambda>. Got NoneType. Return a boolean"),  # noqa: ARG005
        (lambda w: w[0] > 0, ValueError, r"needs a mask of the weight's shape, \(4, 6\)"),
    ],
)
def test_bad_masks_are_refused(mask: Any, error: type[Exception], message: str) -> None:
    layer = linear(torch.randn(SHAPE))
    before = layer.weight.detach().clone()
    with pytest.raises(error, match=message):
        register_parametrization(layer, "weight", MaskedSparse(mask))
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("rule", [masks.random, masks.magnitude, masks.erdos_renyi, masks.lower_triangular])
def test_a_rule_that_was_not_called_is_refused(rule: Any) -> None:
    with pytest.raises(TypeError, match=r"which makes one. Write masks.(\w+\(density=0.1\)|lower_triangular\(\))"):
        register_parametrization(linear(torch.randn(SHAPE)), "weight", MaskedSparse(rule))


@pytest.mark.filterwarnings("ignore:.* keeps none of")
def test_every_rule_of_shape_starts_on_meta_also_under_a_meta_default() -> None:
    makes: list[Callable[[], masks.MaskRule]]
    makes = [
        lambda: masks.block_diagonal(2),
        lambda: masks.autoregressive(range(6), range(4)),
        lambda: masks.banded(1, 0),
        lambda: masks.from_edges([(0, 1)]),
        lambda: masks.random(density=0.6),
        lambda: masks.random(density=0.2),
        lambda: masks.erdos_renyi(density=0.01),  # an empty mask
    ]
    for make in makes:
        with torch.device("meta"):
            layer = register_parametrization(nn.Linear(6, 4), "weight", MaskedSparse(make()))
        parametrization = layer.get_submodule("parametrizations.weight.0")
        assert isinstance(parametrization, MaskedSparse)
        assert parametrization.positions.device.type == "cpu"


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("around", [torch.autocast("cpu", torch.bfloat16), default_dtype(torch.bfloat16)])
def test_settings_during_registration_do_not_choose_the_product(
    around: contextlib.AbstractContextManager[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer: Any = nn.Linear(6, 4)
    with around:
        register(layer, {"weight": MaskedSparse(checkerboard(SHAPE), product="strips")})
    expected = dense_output(layer)
    monkeypatch.setattr(MaskedSparse, "forward", None)  # the weight is never materialised
    torch.testing.assert_close(layer(INPUTS), expected)


FILTERS = """
import warnings
import torch
from torch import nn
before = list(warnings.filters)
from parametrizations import MaskedSparse, masks, register
assert warnings.filters == before, "importing"
warnings.simplefilter("error")
before = list(warnings.filters)
with torch.device("meta"):
    layer = register(nn.Linear(6, 4, device="cpu"), {"weight": MaskedSparse(masks.random(density=0.3), product="csr")})
layer(torch.ones(2, 6)).sum().backward()
assert warnings.filters == before, "multiplying"
"""


def test_neither_importing_nor_the_first_product_of_a_process_warns_or_touches_the_filters() -> None:
    subprocess.run([sys.executable, "-c", FILTERS], check=True, timeout=120)


def test_a_mask_rule_of_values_cannot_start_on_meta() -> None:
    layer = nn.Linear(6, 4, device="meta")
    with pytest.raises(ValueError, match="magnitude needs the values of the weight"):
        register_parametrization(layer, "weight", MaskedSparse(masks.magnitude(density=0.5)))


# Checkpoints: a damaged one is refused and leaves the layer unchanged.


def truncate(state: dict[str, Any]) -> None:
    state[MASK] = state[MASK][:-3]


def out_of_range(state: dict[str, Any]) -> None:
    state[MASK][-1] = 24


def far_out_of_range(state: dict[str, Any]) -> None:
    state[MASK][-1] = 2**31 - 1


def negative(state: dict[str, Any]) -> None:
    state[MASK][2] = -1


def unsorted(state: dict[str, Any]) -> None:
    state[MASK][3:5] = state[MASK][3:5].flip(0)


def repeated(state: dict[str, Any]) -> None:
    state[MASK][3] = state[MASK][4]


def too_few_values(state: dict[str, Any]) -> None:
    state[VALUES] = state[VALUES][:-1]


def no_mask(state: dict[str, Any]) -> None:
    del state[MASK]


def no_values(state: dict[str, Any]) -> None:
    del state[VALUES]


def averaged(state: dict[str, Any]) -> None:
    state[MASK] = state[MASK] * 0.9


def another_shape(state: dict[str, Any]) -> None:
    state[MASK][:2] = torch.tensor([6, 4])


def nothing_left(state: dict[str, Any]) -> None:
    state[MASK] = state[MASK][:0]


def no_tensor(state: dict[str, Any]) -> None:
    state[MASK] = "checkerboard"


def two_dimensional_values(state: dict[str, Any]) -> None:
    state[VALUES] = torch.ones(SHAPE)


DAMAGE: dict[Callable[[dict[str, Any]], None], str] = {
    truncate: r"needs as many values as positions, a tensor of shape \(9,\). Got \(12,\)",
    out_of_range: r"needs positions from 0 to 23 in its mask. Got 1 out of range, the first at",
    far_out_of_range: r"Got 1 out of range, the first at index 11",
    negative: r"Got 1 out of range, the first at index 0",
    unsorted: r"needs positions in increasing order in its mask. Got 1 not below the next one",
    repeated: r"needs positions in increasing order in its mask. Got 1 not below the next one",
    too_few_values: r"needs as many values as positions, a tensor of shape \(12,\). Got \(11,\)",
    no_mask: r"needs values and their positions together. Got no 'parametrizations.weight.0._extra_state'",
    no_values: r"needs values and their positions together. Got no 'parametrizations.weight.original'",
    averaged: r"needs its mask as a 1-D tensor of int32 or int64.* Got torch.float32 of shape \(14,\)",
    another_shape: r"needs a mask for a weight of shape \(4, 6\). Got one for shape \(6, 4\)",
    nothing_left: r"needs its mask as a 1-D tensor .* Got torch.int32 of shape \(0,\)",
    no_tensor: r"needs its mask as a 1-D tensor .* Got str",
    two_dimensional_values: r"needs as many values as positions.* Got \(4, 6\)",
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("other", [None, masks.random(density=0.2)], ids=["same mask", "other count"])
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(
    damage: Callable[[dict[str, Any]], None], strict: bool, assign: bool, other: Any
) -> None:
    state, layer = sparse().state_dict(), sparse(other)
    damage(state)
    parameter, before = stored(layer), copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=DAMAGE[damage]):
        layer.load_state_dict(state, strict=strict, assign=assign)
    after = layer.state_dict()
    assert stored(layer) is parameter
    assert all(torch.equal(after[key], before[key]) for key in (VALUES, MASK))
    assert layer(torch.randn(2, 6)).shape == (2, 4)


def on_meta(values: Tensor) -> Tensor:
    return values.to("meta")


def made_sparse(values: Tensor) -> Tensor:
    return values.to_sparse()


def made_complex(values: Tensor) -> Tensor:
    return values + 1j


@pytest.mark.parametrize("change", [on_meta, made_sparse, made_complex])
@pytest.mark.parametrize("other", [None, masks.random(density=0.2)], ids=["same mask", "other count"])
def test_values_that_pytorch_could_not_copy_leave_the_mask_too(change: Callable[[Tensor], Tensor], other: Any) -> None:
    state, layer = sparse().state_dict(), sparse(other)
    state[VALUES] = change(state[VALUES])
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=r"floating-point values that can be copied into torch.float32 on cpu"):
        layer.load_state_dict(state)
    after = layer.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in (VALUES, MASK))


def test_one_damaged_layer_does_not_keep_the_others_from_loading() -> None:
    saved, model = nn.Sequential(sparse(), nn.Linear(4, 4)), nn.Sequential(sparse(), nn.Linear(4, 4))
    state = saved.state_dict()
    state["0." + MASK] = state["0." + MASK][:-1]
    with pytest.raises(RuntimeError, match=r"The layer at '0.parametrizations.weight.' stays as it was"):
        model.load_state_dict(state)
    assert torch.equal(model[1].get_parameter("weight"), saved[1].get_parameter("weight"))


def test_a_state_dict_without_the_layer_is_reported_as_pytorch_does() -> None:
    with pytest.raises(RuntimeError, match=r"Missing key.*original.*_extra_state"):
        sparse().load_state_dict({})
    assert sparse().load_state_dict({}, strict=False).missing_keys == [VALUES, MASK]


def test_the_mask_alone_does_not_load_into_other_values() -> None:
    layer, parametrization = sparse(masks.random(density=0.2)), sparse().parametrizations.weight[0]
    with pytest.raises(ValueError, match=r"needs a mask of 5 positions for the values it has. Got 12"):
        layer.parametrizations.weight[0].load_state_dict(parametrization.state_dict())


# Every way to save a state dict keeps the mask, and loads into a layer built with another mask.


def by_torch_save(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def by_safetensors(state: dict[str, Any]) -> dict[str, Any]:
    return load(save(state))


def by_distributed_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    folder = Path(os.environ["CHECKPOINT"])
    save_distributed(state, checkpoint_id=folder)
    read = {key: torch.zeros_like(value) for key, value in state.items()}
    load_distributed(read, checkpoint_id=folder)
    return read


@pytest.mark.parametrize("route", [by_torch_save, by_safetensors, by_distributed_checkpoint])
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize(
    "built", [masks.random(density=0.5), masks.random(density=0.2), masks.random(density=0.9)], ids=repr
)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:TypedStorage is deprecated")
def test_a_saved_mask_replaces_the_one_a_model_was_built_with(
    route: Callable[[dict[str, Any]], dict[str, Any]],
    assign: bool,
    built: masks.MaskRule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHECKPOINT", str(tmp_path))
    saved, layer = sparse(), sparse(built)
    layer(torch.randn(2, 6)).sum().backward()
    layer.load_state_dict(route(saved.state_dict()), assign=assign)
    assert torch.equal(layer.weight, saved.weight)
    assert torch.equal(mask_of(layer), checkerboard(SHAPE))
    optimizer = torch.optim.Adam(layer.parameters())
    layer.zero_grad()
    layer(torch.randn(2, 6)).square().sum().backward()
    optimizer.step()
    assert layer.parametrizations.weight[0].contains(layer.weight)


def test_training_resumes_with_another_mask_when_the_optimizer_is_restored_too() -> None:
    def step(layer: Any, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.linspace(-1, 1, 12).view(2, 6)).square().sum().backward()
        optimizer.step()

    saved = sparse()
    first = torch.optim.Adam(saved.parameters(), fused=True)
    step(saved, first)
    layer = sparse(masks.random(density=0.2))
    second = torch.optim.Adam(layer.parameters(), fused=True)
    layer.load_state_dict(saved.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(saved, first)
    step(layer, second)
    assert torch.equal(layer.weight, saved.weight)


def test_a_deep_copy_loads_for_itself() -> None:
    saved, layer = sparse(), sparse(masks.random(density=0.2))
    twin = copy.deepcopy(layer)
    before = layer.weight.detach().clone()
    twin.load_state_dict(saved.state_dict())
    assert torch.equal(twin.weight, saved.weight)
    assert torch.equal(layer.weight, before)


def test_writing_into_a_state_dict_does_not_reach_the_layer() -> None:
    layer = sparse()
    layer.state_dict()[MASK].zero_()
    assert torch.equal(mask_of(layer), checkerboard(SHAPE))


# A mask inside a third-party parametrization.


class Scaled(nn.Module):
    def __init__(self, mask: Any) -> None:
        super().__init__()
        self.inner = MaskedSparse(mask)

    @override
    def forward(self, x: Tensor) -> Tensor:
        built: Tensor = 2 * self.inner(x)
        return built

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.inner.right_inverse(weight / 2)


class Own(Parametrization):
    def __init__(self, mask: Any) -> None:
        super().__init__()
        self.inner = MaskedSparse(mask)

    @property
    @override
    def stored_shape(self) -> torch.Size:
        return self.inner.stored_shape

    @override
    def adopt(self, weight: Tensor) -> None:
        super().adopt(weight)
        self.inner.right_inverse(weight)

    @override
    def forward(self, x: Tensor) -> Tensor:
        built: Tensor = self.inner(x)
        return built

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return self.inner.excess(weight)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return self.inner.project(weight)

    @override
    def invert(self, weight: Tensor) -> Tensor:
        return self.inner.invert(weight)


@pytest.mark.parametrize("make", [Scaled, Own])
@pytest.mark.parametrize(
    "built", [masks.random(density=0.5), masks.random(density=0.2)], ids=["same count", "other count"]
)
def test_a_mask_inside_of_another_parametrization_loads_and_turns_plain(
    make: Callable[[Any], nn.Module], built: masks.MaskRule
) -> None:
    saved, layer = (register(linear(weight(SHAPE)), {"weight": make(mask)}) for mask in (checkerboard(SHAPE), built))
    expected, state = saved.weight.detach(), saved.state_dict()
    assert torch.equal(plain_state_dict(layer, state)["weight"], expected)
    assert torch.equal(bake(saved).weight, expected)
    damaged = state | {"parametrizations.weight.original": torch.ones(3)}
    before = layer.weight.detach()
    with pytest.raises(RuntimeError, match=r"as many values as positions"):
        layer.load_state_dict(damaged)
    assert torch.equal(layer.weight, before)
    layer.load_state_dict(state)
    assert torch.equal(layer.weight, expected)


class Split(nn.Module):
    """Two masks for two parts of the stored tensor: neither mask covers all values."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower = MaskedSparse(checkerboard(SHAPE)), MaskedSparse(~checkerboard(SHAPE))

    @override
    def forward(self, x: Tensor) -> Tensor:
        built: Tensor = self.upper(x[:12]) + self.lower(x[12:])
        return built

    def right_inverse(self, weight: Tensor) -> Tensor:
        return torch.cat([self.upper.right_inverse(weight), self.lower.right_inverse(weight)])


def test_two_masks_inside_of_one_parametrization_load() -> None:
    saved, layer = (register(linear(weight(SHAPE)), {"weight": Split()}) for _ in range(2))
    with torch.no_grad():
        stored(saved).mul_(2)
    layer.load_state_dict(saved.state_dict())
    assert torch.equal(layer.weight, 2 * weight(SHAPE))


# Operations that break masks in other libraries.


def test_averaging_a_model_with_its_buffers_leaves_the_mask() -> None:
    layer = sparse()
    average: Any = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)  # type: ignore[no-untyped-call]
    for _ in range(5):
        with torch.no_grad():
            stored(layer).add_(1)
        average.update_parameters(layer)
    assert torch.equal(mask_of(average.module), checkerboard(SHAPE))
    assert average.module.parametrizations.weight[0].contains(average.module.weight)


def mean_of(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every entry, as federated averaging computes it."""
    return {key: torch.stack([state[key].float() for state in states]).mean(0) for key in states[0]}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_average_of_checkpoints_with_one_mask_loads(count: int) -> None:
    layers = [sparse() for _ in range(count)]
    mean = torch.stack([layer.weight.detach() for layer in layers]).mean(0)
    layers[0].load_state_dict(mean_of([layer.state_dict() for layer in layers]))
    torch.testing.assert_close(layers[0].weight, mean)
    assert torch.equal(mask_of(layers[0]), checkerboard(SHAPE))
    for state in (layers[0].state_dict(), mean_of([layers[0].state_dict()])):
        torch.testing.assert_close(plain_state_dict(layers[1], state)["weight"], mean)


@pytest.mark.parametrize("other", [~checkerboard(SHAPE), checkerboard(SHAPE).roll(1, 0)], ids=["swapped", "rolled"])
def test_an_average_of_checkpoints_with_different_masks_is_refused(other: Tensor) -> None:
    layer = sparse()
    before = layer.weight.detach()
    with pytest.raises(RuntimeError, match="Average only the floating-point entries of checkpoints"):
        layer.load_state_dict(mean_of([layer.state_dict(), sparse(other).state_dict()]))
    assert torch.equal(layer.weight, before)
    assert torch.equal(mask_of(layer), checkerboard(SHAPE))


def test_positions_that_an_average_has_rounded_are_refused() -> None:
    mask = torch.zeros(1, 2**24 + 8, dtype=torch.bool)
    mask[0, 2**24 + 1] = True
    layer = constrained(MaskedSparse(mask), mask.float())
    with pytest.raises(RuntimeError, match="Average only the floating-point entries"):
        layer.load_state_dict(mean_of([layer.state_dict()] * 2))


def test_half_and_back_leaves_the_mask() -> None:
    layer = sparse().half().bfloat16().type(torch.float64).float()
    assert layer.parametrizations.weight[0].positions.dtype is torch.int32
    assert torch.equal(mask_of(layer), checkerboard(SHAPE))


@pytest.mark.parametrize("rule", [masks.random(density=0.01), masks.banded(3, 3), masks.block_diagonal(8)])
def test_a_large_layer_on_meta_runs_densely(rule: masks.MaskRule) -> None:
    with torch.device("meta"):
        layer: Any = register(nn.Linear(1024, 1024), {"weight": MaskedSparse(rule)})
        assert explain(layer).product == "dense"
        output = layer(torch.ones(2, 1024))
    output.sum().backward()
    assert (output.device.type, output.shape) == ("meta", (2, 1024))


def test_meta_and_to_empty_leave_the_mask() -> None:
    layer = sparse().to("meta").to_empty(device="cpu")
    assert torch.equal(mask_of(layer), checkerboard(SHAPE))


def test_built_on_meta_it_loads_by_assignment() -> None:
    saved = sparse()
    layer: Any = nn.Linear(6, 4, bias=False, device="meta")
    register_parametrization(layer, "weight", MaskedSparse(masks.random(density=0.2)))
    layer.load_state_dict(saved.state_dict(), assign=True)
    assert torch.equal(layer.weight, saved.weight)


def test_swapped_parameters_leave_the_mask() -> None:
    saved, layer = sparse(), sparse(masks.random(density=0.2))
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.load_state_dict(saved.state_dict())
        layer.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert torch.equal(layer.weight, saved.weight.double())


def test_the_mask_reaches_an_exported_program_and_its_file() -> None:
    layer, inputs, file = sparse(), torch.randn(2, 6), io.BytesIO()
    torch.export.save(torch.export.export(layer, (inputs,)), file)
    file.seek(0)
    torch.testing.assert_close(torch.export.load(file).module()(inputs), layer(inputs))


@pytest.mark.parametrize("write", [Tensor.abs_, lambda weight: weight.data.mul_(5)])
def test_a_rule_that_writes_into_its_argument_changes_no_weight(write: Callable[[Tensor], Tensor]) -> None:
    weight = torch.linspace(-1, 1, 16).view(4, 4)
    for attach in (constrained, lambda made, start: register(linear(start), {"weight": made})):
        layer = attach(MaskedSparse(lambda shown: write(shown) > -10), weight)
        assert torch.equal(layer.weight, weight)


GIVEN = checkerboard((3, 4))


def test_a_given_mask_is_known_before_registration() -> None:
    masked, matrix = MaskedSparse(GIVEN), weight((3, 4))
    assert torch.equal(masked.mask, GIVEN)
    assert masked.mask is not masked.mask
    assert masked.positions.tolist() == GIVEN.flatten().nonzero().flatten().tolist()
    assert masked.stored_shape == (6,)
    assert torch.equal(masked.project(matrix), matrix * GIVEN)
    assert torch.equal(masked.excess(matrix), matrix.abs() * ~GIVEN)
    assert not masked.contains(matrix)
    assert masked.contains(masked.project(matrix))
    layer = register(linear(matrix), {"weight": masked})
    assert torch.equal(layer.get_parameter(VALUES), matrix[GIVEN])


@pytest.mark.parametrize("route", [by_torch_save, by_safetensors], ids=lambda route: route.__name__)
@pytest.mark.parametrize("mask", [GIVEN, masks.random(density=0.5)], ids=["given", "rule"])
def test_a_module_with_an_unregistered_one_saves_and_loads(route: Any, mask: Any) -> None:
    held, other = nn.Sequential(nn.Linear(2, 2), MaskedSparse(mask)), nn.Sequential(nn.Linear(2, 2), MaskedSparse(mask))
    other.load_state_dict(route(held.state_dict()))
    assert "not registered" in repr(other[1])
    assert torch.equal(other[0].get_parameter("weight"), held[0].get_parameter("weight"))


def test_a_given_mask_is_replaced_by_the_saved_one_and_attached() -> None:
    saved, masked, matrix = (
        MaskedSparse(~GIVEN).state_dict(),
        MaskedSparse(torch.ones(3, 4, dtype=torch.bool)),
        weight((3, 4)),
    )
    masked.load_state_dict(saved)
    assert torch.equal(register(linear(matrix), {"weight": masked}).get_parameter(VALUES), matrix[~GIVEN])
    with pytest.raises(ValueError, match=r"needs a mask for a weight of shape \(4, 4\). Got one for shape \(3, 4\)"):
        MaskedSparse(checkerboard((4, 4))).load_state_dict(saved)
    with pytest.raises(ValueError, match="needs to know its weight"):
        MaskedSparse(masks.random(density=0.5)).load_state_dict(saved)
