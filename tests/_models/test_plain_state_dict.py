"""Checkpoints across plain and constrained models: torch.save, safetensors, torch.distributed.checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    bake,
    fuse,
    masks,
    plain_state_dict,
    register,
)
from tools.injection import everything

INPUTS = torch.linspace(-1, 1, 12).view(3, 4)
RULES: dict[str, Any] = {
    "0.weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
    "1.weight": Diagonal(),
    "2.inner.weight": MaskedSparse(masks.random(density=0.5)),
    "3.weight": ZeroDiagonal(),
}


class Halved(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return 2 * weight


def plain() -> Any:
    inner = nn.ModuleDict({"norm": nn.BatchNorm1d(4), "inner": nn.Linear(4, 4, bias=False)})
    made = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), inner, nn.Linear(4, 3))
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def registered() -> Any:
    return register(plain(), RULES)


def output(model: Any) -> Tensor:
    inner: Tensor = model[2]["norm"].eval()(model[1](model[0](INPUTS)))
    result: Tensor = model[3](model[2]["inner"](inner))
    return result


def test_the_plain_checkpoint_is_the_baked_models_and_the_model_is_left() -> None:
    model = registered()
    before = everything(model)
    found, expected = plain_state_dict(model), bake(model).state_dict()
    assert everything(model) == before
    assert list(found) == list(expected)
    assert found._metadata == expected._metadata  # type: ignore[attr-defined]
    for key, value in expected.items():
        assert torch.equal(found[key], value)
        assert not found[key].requires_grad
    fresh = plain()
    fresh.load_state_dict(found)
    torch.testing.assert_close(output(fresh), output(model))


def test_a_given_checkpoint_is_converted_not_the_model() -> None:
    model, other = registered(), registered()
    state = copy.deepcopy(other.state_dict())
    found = plain_state_dict(model, state)
    for key, value in bake(other).state_dict().items():
        assert torch.equal(found[key], value)  # despite the other random mask
    assert state.keys() == other.state_dict().keys()
    assert plain_state_dict(model, {}) == {}


def test_a_checkpoint_with_another_number_of_kept_entries_is_converted() -> None:
    layer = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.banded(1, 1))})
    other = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.lower_triangular(-1))})
    state, weight, loss = other.state_dict(), layer.weight.detach(), layer.weight.square().sum()
    assert torch.equal(plain_state_dict(layer, state)["weight"], other.weight)
    assert torch.equal(layer.weight, weight)
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "constrain",
    [lambda layer: register(layer, {"weight": ZeroDiagonal()}), lambda layer: register(layer, {"weight": Diagonal()})],
    ids=["ZeroDiagonal", "Diagonal"],
)
def test_a_checkpoint_of_another_shape_is_refused(constrain: Callable[[nn.Module], nn.Module]) -> None:
    model, other = constrain(nn.Linear(4, 4)), constrain(nn.Linear(6, 6))
    with pytest.raises(ValueError, match=r"does not fit at 'weight': .*\s.*size mismatch .* Convert it with the model"):
        plain_state_dict(model, other.state_dict())


def test_a_meta_model_converts_a_checkpoint_that_has_values() -> None:
    with torch.device("meta"):
        model = registered()
    state = registered().state_dict()
    assert not any(value.is_meta for value in plain_state_dict(model, state).values())


class Scaled(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_a_meta_model_takes_the_buffers_of_third_party_steps_from_the_checkpoint() -> None:
    with torch.device("meta"):
        layer = register(nn.Linear(2, 2), {"weight": [Scaled(), nn.Identity()]})
    state = {name: torch.full(tensor.shape, 3.0) for name, tensor in layer.state_dict().items()}
    assert plain_state_dict(layer, state)["weight"].tolist() == [[9, 9], [9, 9]]
    assert all(tensor.is_meta for tensor in layer.state_dict().values())


def test_constrained_entries_without_a_match_are_refused() -> None:
    model = registered()
    wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"constrained entries, such as 'module.0.parametrizations.weight.0._extra"):
        plain_state_dict(model, wrapped)
    with pytest.raises(ValueError, match=r"with its constraints. Got 6 unknown constrained entries"):
        plain_state_dict(plain(), model.state_dict())
    own: Any = nn.Module()
    own.parametrizations = nn.Linear(2, 2)  # not PyTorch's module dict
    assert list(plain_state_dict(own)) == ["parametrizations.weight", "parametrizations.bias"]


def test_a_hook_that_changes_the_plain_weight_comes_first() -> None:
    def rename(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:  # noqa: ARG001
        state[f"{prefix}weight"] = state.pop(f"{prefix}kernel").mT

    layer = nn.Linear(3, 3)
    layer.register_load_state_dict_pre_hook(rename)  # type: ignore[no-untyped-call]
    register(layer, {"weight": ZeroDiagonal()})
    weight = torch.randn(3, 3).fill_diagonal_(0)
    layer.load_state_dict({"kernel": weight, "bias": torch.zeros(3)})
    assert torch.equal(layer.weight, weight.mT)
    assert len(layer._load_state_dict_pre_hooks) == 1


def test_assigning_a_plain_checkpoint_keeps_its_dtype() -> None:
    checkpoint = nn.Linear(3, 3).bfloat16().state_dict()
    with torch.device("meta"):
        layer = register(nn.Linear(3, 3), {"weight": ZeroDiagonal(on_infeasible="project")})
    layer.load_state_dict(checkpoint, assign=True)
    assert layer(torch.ones(1, 3).bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize(
    "rule",
    [Diagonal(), MaskedSparse(masks.banded(1, 1)), NegExpDiagonal(), [ZeroDiagonal(), Halved()]],
    ids=["Diagonal", "MaskedSparse", "NegExpDiagonal", "Halved"],
)
def test_assigning_a_plain_checkpoint_without_values_gives_a_model_without_values(rule: Any) -> None:
    layer = register(nn.Linear(4, 4), {"weight": rule})
    shapes = [parameter.shape for parameter in layer.parameters()]
    layer.load_state_dict(nn.Linear(4, 4, device="meta").state_dict(), assign=True)
    assert all(parameter.is_meta for parameter in layer.parameters())
    assert [parameter.shape for parameter in layer.parameters()] == shapes


def test_a_plain_checkpoint_is_refused_without_an_inverse() -> None:
    class Squared(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    layer = register(nn.Linear(4, 4), {"weight": [ZeroDiagonal(), Squared()]})
    before = layer.weight.detach()
    message = r"plain 'weight': Squared needs a right_inverse .* Load the constrained checkpoint. .* as it was"
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(nn.Linear(4, 4).state_dict())
    assert torch.equal(layer.weight, before)


def test_a_third_party_inverse_that_is_not_exact_is_refused() -> None:
    trained, fresh = bake(spectral_norm(nn.Linear(6, 6))), fuse(spectral_norm(nn.Linear(6, 6)))
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(RuntimeError, match=r"_SpectralNorm needs an exact inverse.* Load the constrained checkpoint"):
        fresh.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items() if "bias" not in key)


@pytest.mark.parametrize("other", [masks.banded(0, 2), masks.lower_triangular()])
def test_a_mask_loaded_in_inference_mode_trains_afterwards(other: masks.MaskRule) -> None:
    layer = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.banded(1, 1))})
    state = register(nn.Linear(4, 4), {"weight": MaskedSparse(other)}).state_dict()
    with torch.inference_mode():
        layer.load_state_dict(state)
    layer(torch.ones(1, 4)).sum().backward()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bias", torch.ones(5), r"Got .* for '0.bias', which has \(4,\) here. Convert it with the model that"),
        ("bias", torch.ones(4, 1), r"Got shape \(4, 1\) for '0.bias'"),
        ("bias", [1.0] * 4, r"Got list for '0.bias'. Pass the state dict alone"),
        ("epoch", 3, r"Got int for '0.epoch'\. Pass the state dict"),
        ("counted", None, r"Got NoneType for '0.counted'\. Pass the state dict"),
    ],
)
def test_unconstrained_entries_must_fit_too(key: str, value: Any, message: str) -> None:
    model: Any = registered()
    model[0].register_buffer("counted", torch.ones(()))
    with pytest.raises(ValueError, match=f"plain_state_dict needs a checkpoint of this model. {message}"):
        plain_state_dict(model, model.state_dict() | {f"0.{key}": value})


class Saving(nn.Module):
    """Saves a string, and loads a buffer of any shape, as quantized modules and observers do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(()))

    @override
    def get_extra_state(self) -> str:
        return "bits: 8"

    @override
    def set_extra_state(self, state: object) -> None: ...


def test_modules_that_save_other_things_than_tensors_turn_plain() -> None:
    model = nn.Sequential(registered(), Saving(), nn.LazyLinear(3))
    state = model.state_dict() | {"1.seen": torch.ones(3), "2.weight": torch.ones(3, 5)}
    plain = plain_state_dict(model, state)
    assert (plain["1._extra_state"], plain["1.seen"].shape, plain["2.weight"].shape) == ("bits: 8", (3,), (3, 5))


def test_a_checkpoint_of_another_model_is_refused() -> None:
    model = registered()
    state = model.state_dict()
    del state["2.inner.parametrizations.weight.0._extra_state"]
    with pytest.raises(ValueError, match=r"(?s)does not fit at '2.inner.weight'.* values and their positions together"):
        plain_state_dict(model, state)
    with pytest.raises(ValueError, match=r"(?s)does not fit at '1.weight'.* expected torch.Tensor .* received .*list"):
        plain_state_dict(model, {"1.parametrizations.weight.original": [1.0]})
    with pytest.raises(TypeError, match=r"a state dict or None. Got Sequential and list"):
        plain_state_dict(model, [])  # type: ignore[arg-type]


def architecture() -> Any:
    """A model with constraints in its architecture, like Wav2Vec2."""
    return nn.Sequential(weight_norm(nn.Linear(4, 4)), orthogonal(nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Linear(4, 4))


@pytest.mark.parametrize("given", [False, True])
def test_the_models_own_parametrizations_stay_as_stored(given: bool) -> None:
    model = register(architecture().eval(), {"3.weight": ZeroDiagonal(), "1.bias": Halved()})
    plain, fresh = plain_state_dict(model, model.state_dict() if given else None), architecture().eval()
    assert list(plain) == list(fresh.state_dict())
    assert plain._metadata == fresh.state_dict()._metadata  # type: ignore[attr-defined]
    fresh.load_state_dict(plain)
    torch.testing.assert_close(fresh(INPUTS), model(INPUTS))
    again = register(architecture().eval(), {"3.weight": ZeroDiagonal(), "1.bias": Halved()})
    again.load_state_dict(plain)
    torch.testing.assert_close(again(INPUTS), model(INPUTS))


def test_a_third_party_parametrization_that_register_did_not_attach_on_the_same_tensor_is_refused() -> None:
    below = register(nn.Sequential(weight_norm(nn.Linear(4, 4))), {"0.weight": ZeroDiagonal()})
    above = register(nn.Sequential(nn.Linear(4, 4)), {"0.weight": [NegExpDiagonal(), Halved()]})
    register_parametrization(above[0], "weight", Halved())
    message = r"on different tensors. Got .* for '0.weight'. Use bake\(model\).state_dict\(\), with plain tensors only."
    for model in (below, above):
        with pytest.raises(ValueError, match=message):
            plain_state_dict(model)
        with pytest.raises(ValueError, match=message):
            plain_state_dict(model, model.state_dict())


def test_a_checkpoint_keeps_its_dtype_and_device_in_a_chain() -> None:
    model = register(nn.Sequential(nn.Linear(4, 4)), {"0.weight": [Diagonal(), Halved()]})
    expected = plain_state_dict(model)
    wide = plain_state_dict(model, {key: value.double() for key, value in model.state_dict().items()})
    empty = plain_state_dict(model, {key: value.to("meta") for key, value in model.state_dict().items()})
    assert list(wide) == list(empty) == list(expected)
    for key, value in expected.items():
        assert wide[key].dtype is torch.float64
        torch.testing.assert_close(wide[key].float(), value)
        assert empty[key].is_meta
        assert empty[key].shape == value.shape


def test_third_party_parametrizations_attached_by_register_turn_plain() -> None:
    model = register(nn.Linear(4, 4), {"weight": [Halved(), ZeroDiagonal(), Halved()], "bias": Halved()})
    twin = copy.deepcopy(model)
    for one in (model, twin):
        assert list(plain_state_dict(one)) == ["weight", "bias"]
        assert torch.equal(plain_state_dict(one)["weight"], model.weight)


def test_a_plain_checkpoint_loads_through_third_party_inverses() -> None:
    for norm in (weight_norm, orthogonal):
        single: Any = fuse(nn.Sequential(norm(nn.Linear(4, 4))))
        other = bake(fuse(nn.Sequential(norm(nn.Linear(4, 4)))))
        single.load_state_dict(other.state_dict())
        torch.testing.assert_close(single(INPUTS), other(INPUTS), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("assign", [False, True])
def test_a_plain_checkpoint_loads_strictly(assign: bool) -> None:
    source, model = registered(), registered()
    model.load_state_dict(source.state_dict())
    checkpoint = plain_state_dict(source)
    fresh = registered()
    fresh[2]["inner"].load_state_dict(source[2]["inner"].state_dict())  # the mask is not in a plain checkpoint
    assert str(fresh.load_state_dict(checkpoint, strict=True, assign=assign)) == "<All keys matched successfully>"
    torch.testing.assert_close(output(fresh), output(source))
    assert list(checkpoint) == list(plain_state_dict(source))  # loading leaves it unchanged
    output(fresh).sum().backward()  # type: ignore[no-untyped-call]


def test_a_plain_checkpoint_loads_into_a_layer_registered_by_pytorch_and_fused() -> None:
    layer: Any = fuse(register_parametrization(nn.Linear(4, 4), "weight", ZeroDiagonal()))
    weight = torch.randn(4, 4).fill_diagonal_(0)
    layer.load_state_dict({"weight": weight, "bias": torch.ones(4)})
    assert torch.equal(layer.weight, weight)
    remove_parametrizations(layer, "weight")
    layer.load_state_dict({"weight": torch.eye(4), "bias": torch.ones(4)})
    assert torch.equal(layer.weight, torch.eye(4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_plain_checkpoint_of_another_dtype_is_converted_before_it_is_inverted(dtype: torch.dtype) -> None:
    layer = register(nn.Linear(4, 4), {"weight": NegExpDiagonal()})
    weight = -torch.eye(4, dtype=dtype)
    layer.load_state_dict({"weight": weight, "bias": torch.ones(4)})
    torch.testing.assert_close(layer.weight, weight.float())


def test_a_plain_checkpoint_outside_the_set_follows_on_infeasible() -> None:
    strict = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.lower_triangular())})
    before = strict.weight.detach().clone()
    checkpoint = {"weight": torch.ones(4, 4), "bias": torch.ones(4)}
    with pytest.raises(
        RuntimeError, match=r"plain 'weight': MaskedSparse needs every .* 6 of 16 .* Load or pass a .* stays as it was"
    ):
        strict.load_state_dict(checkpoint)
    assert torch.equal(strict.weight, before)
    lenient = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.lower_triangular(), on_infeasible="project")})
    lenient.load_state_dict(checkpoint)
    assert torch.equal(lenient.weight, torch.ones(4, 4).tril())


def test_an_inverse_is_as_exact_as_its_dtype() -> None:
    layer, other = fuse(weight_norm(nn.Linear(64, 64).bfloat16())), nn.Linear(64, 64).bfloat16()
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer.weight, other.weight)


def test_a_constraint_below_a_third_party_parametrization_projects_on_loading() -> None:
    layer = register(nn.Linear(4, 4), {"weight": [ZeroDiagonal(on_infeasible="project"), Halved()]})
    layer.load_state_dict({"weight": torch.ones(4, 4), "bias": torch.ones(4)})
    assert torch.equal(layer.weight, torch.ones(4, 4).fill_diagonal_(0))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_a_plain_checkpoint_of_an_empty_layer_loads(shape: tuple[int, int]) -> None:
    layer = register(nn.Linear(*shape), {"weight": [ZeroDiagonal(), Halved()]})
    layer.load_state_dict(nn.Linear(*shape).state_dict())
    assert plain_state_dict(layer)["weight"].shape == layer.weight.shape


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(3, 4), r"weight of shape \(4, 4\). Got \(3, 4\). Load or pass a weight of that shape"),
        (torch.full((4, 4), torch.nan), "finite weight"),
        ("text", "needs to be a tensor. Got str"),
        (torch.ones(4, 4).to_sparse(), "every entry off the main diagonal to be 0"),
    ],
)
def test_a_plain_checkpoint_that_does_not_fit_is_refused(weight: Any, message: str) -> None:
    layer = register(nn.Linear(4, 4), {"weight": Diagonal()})
    before = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict({"weight": weight, "bias": torch.ones(4)})
    assert torch.equal(layer.weight, before)


def test_missing_keys_of_a_partial_checkpoint_are_still_reported() -> None:
    model = registered()
    found = model.load_state_dict({"1.weight": torch.eye(4)}, strict=False)
    assert not found.unexpected_keys
    assert not any(key.startswith("1.parametrizations") for key in found.missing_keys)
    assert "0.parametrizations.weight.original" in found.missing_keys


def test_a_plain_weight_replaces_the_entries_of_the_model() -> None:
    model, changed = registered(), torch.diag(torch.arange(4.0))
    model.load_state_dict(model.state_dict() | {"1.weight": changed})
    assert torch.equal(model[1].weight, changed)


def test_two_forms_of_a_weight_are_refused() -> None:
    model, other = registered(), registered()
    other[2]["inner"].load_state_dict(model[2]["inner"].state_dict())
    before = other[1].weight.detach()
    with pytest.raises(RuntimeError, match=r"needs one form of a weight.*Remove the entry '1.weight', or those that"):
        other.load_state_dict(model.state_dict() | {"1.weight": torch.eye(4)})
    assert torch.equal(other[1].weight, before)


@pytest.mark.parametrize("convert", [plain_state_dict, lambda model: model.state_dict()], ids=["plain", "constrained"])
def test_checkpoints_go_through_files(convert: Callable[[Any], dict[str, Any]], tmp_path: Path) -> None:
    model, fresh = registered(), registered()
    fresh[2]["inner"].load_state_dict(model[2]["inner"].state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    state = convert(model)
    torch.save(state, tmp_path / "model.pt")
    save_file(state, tmp_path / "model.safetensors")
    for loaded in (torch.load(tmp_path / "model.pt", weights_only=True), load_file(tmp_path / "model.safetensors")):
        other = copy.deepcopy(fresh)
        other.load_state_dict(loaded)
        torch.testing.assert_close(output(other), output(model))


PART = StateDictOptions(full_state_dict=True, strict=False)


def test_a_part_of_a_checkpoint_leaves_the_masks_of_other_layers() -> None:
    model = registered()
    before = copy.deepcopy(model.state_dict())
    set_model_state_dict(model, {"3.bias": torch.ones(3)}, options=PART)
    after = model.state_dict()
    assert torch.equal(after.pop("3.bias"), torch.ones(3))
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    del before["3.bias"]
    source = registered()
    part = {key: value for key, value in source.state_dict().items() if key.startswith("2.inner")}
    set_model_state_dict(model, part, options=PART)
    assert torch.equal(model[2]["inner"].weight, source[2]["inner"].weight)


@pytest.mark.parametrize("strict", [False, True])
def test_a_plain_checkpoint_is_seen_among_the_models_own_tensors(strict: bool) -> None:
    source, model = registered(), registered()
    model[2]["inner"].load_state_dict(source[2]["inner"].state_dict())
    set_model_state_dict(model, plain_state_dict(source), options=StateDictOptions(full_state_dict=True, strict=strict))
    torch.testing.assert_close(output(model), output(source))
    weight = torch.diag(torch.arange(1.0, 5))
    set_model_state_dict(model, {"1.weight": weight}, options=PART)
    assert torch.equal(model[1].weight, weight)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ("0._extra_state", "needs values and their positions together"),
        ("original", "Got no 'parametrizations.weight.0._extra_state' in the checkpoint, which is incomplete"),
    ],
)
def test_a_part_that_splits_a_mask_from_its_values_is_refused(kept: str, message: str) -> None:
    layer = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.banded(1, 1))})
    other = register(nn.Linear(4, 4), {"weight": MaskedSparse(masks.banded(0, 2))})
    before, key = copy.deepcopy(layer.state_dict()), f"parametrizations.weight.{kept}"
    state = layer.state_dict(keep_vars=True)
    layer.load_state_dict(state)  # its own values, and its own mask
    with pytest.raises(RuntimeError, match=message):
        set_model_state_dict(layer, {key: other.state_dict()[key]}, options=PART)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_distributed_checkpoints(tmp_path: Path) -> None:
    model, fresh = registered(), registered()
    fresh[2]["inner"].load_state_dict(model[2]["inner"].state_dict())
    save(model.state_dict(), checkpoint_id=tmp_path, no_dist=True)
    state = fresh.state_dict()
    load(state, checkpoint_id=tmp_path, no_dist=True)
    fresh.load_state_dict(state)
    torch.testing.assert_close(output(fresh), output(model))
