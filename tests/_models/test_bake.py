"""`bake`: equal output of the plain model, order, copies, optimizers, rollback, refusals."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import (
    register_parametrization,
    remove_parametrizations,
    transfer_parametrizations_and_params,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    bake,
    explain,
    fuse,
    masks,
    plain_state_dict,
    register,
    summary,
)
from tools.injection import everything, failures, held_by

INPUTS = torch.linspace(-1, 1, 12).view(3, 4)
RULES: dict[str, Any] = {
    "0.weight": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
    "2.weight": Diagonal(),
    "4.weight": ZeroDiagonal(),
}


class Halved(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return 2 * weight


def plain() -> Any:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))


def theirs(model: Any) -> Any:
    """The same constraints, registered by PyTorch's own functions, and two of PyTorch's constraints."""
    register_parametrization(model[0], "weight", NegExpDiagonal())
    register_parametrization(model[0], "bias", nn.Identity())
    orthogonal(model[2])
    weight_norm(model[4])
    return model


def registered() -> Any:
    return register(plain(), RULES)


MODELS: dict[str, Callable[[], Any]] = {
    "ours": registered,
    "theirs": lambda: theirs(plain()),
    "theirs, fused": lambda: fuse(theirs(plain())),
    "spectral": lambda: nn.Sequential(spectral_norm(nn.Linear(4, 4))),
    "in use": lambda: used(registered()),
}
every = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def used(model: Any) -> Any:
    model(INPUTS).sum().backward()
    return model


def require_plain(model: nn.Module, like: nn.Module) -> None:
    assert [type(module) for module in model.modules()] == [type(module) for module in like.modules()]
    assert list(model.state_dict()) == list(like.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in like.named_parameters()]
    for module, other in zip(model.modules(), like.modules(), strict=True):
        assert vars(module).keys() == vars(other).keys()
        assert not module._load_state_dict_pre_hooks
        assert all(type(parameter) is nn.Parameter for parameter in module.parameters())


@every
def test_a_baked_copy_is_plain_with_the_same_output_and_the_model_still_trains(make: Callable[[], Any]) -> None:
    model = make().eval()
    before, output = everything(model), model(INPUTS)
    baked = bake(model)
    require_plain(baked, plain() if len(model) > 1 else nn.Sequential(nn.Linear(4, 4)))
    torch.testing.assert_close(baked(INPUTS), output)
    assert everything(model) == before
    assert all(parameter.requires_grad for parameter in baked.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    used(model)
    optimizer.step()
    torch.testing.assert_close(baked(INPUTS), output)  # nothing is shared
    used(model)


@every
def test_baking_in_place_keeps_identity(make: Callable[[], Any]) -> None:
    model = make().eval()
    output, originals = model(INPUTS), {id(parameter) for parameter in model.parameters()}
    assert bake(model, inplace=True) is model
    require_plain(model, plain() if len(model) > 1 else nn.Sequential(nn.Linear(4, 4)))
    torch.testing.assert_close(model(INPUTS), output)
    kept = {id(parameter) for parameter in model.parameters()} & originals
    assert len(kept) >= len(list(model.parameters())) - 1  # weight_norm stores two tensors, neither of them the weight
    used(model)


def test_a_plain_model_bakes_to_itself() -> None:
    model = plain()
    require_plain(bake(model), model)


@pytest.mark.parametrize("swap", [False, True])
def test_removing_constraints_from_a_copy_leaves_the_original_unchanged(swap: bool) -> None:
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        model = registered()
        twin, other = copy.deepcopy(model), copy.deepcopy(model)
        output = model(INPUTS)
        bake(twin, inplace=True)
        remove_parametrizations(other[4], "weight")
        for one in (model, twin, other):
            torch.testing.assert_close(one(INPUTS), output)
        theirs_too = theirs(plain())
        twin = copy.deepcopy(theirs_too)  # shares PyTorch's injected classes
        bake(twin, inplace=True)
        torch.testing.assert_close(theirs_too(INPUTS), twin(INPUTS))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_an_averaged_model_bakes_while_training_goes_on() -> None:
    model = registered()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        used(model)
        optimizer.step()
        average.update_parameters(model)
        exported: Any = bake(average.module)
        torch.testing.assert_close(exported(INPUTS), average(INPUTS))
    assert not torch.allclose(exported(INPUTS), model(INPUTS))
    assert bool((exported[0].weight.diagonal() < 0).all())


def test_while_cached_a_copy_bakes_its_own_weight() -> None:
    model = registered()
    with parametrize.cached():
        model(INPUTS)
        twin = copy.deepcopy(model)
        twin[2].parametrizations.weight.original.data.fill_(3)
        assert bool((bake(twin)[2].weight.diagonal() == 3).all())


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.ones(2, 2))
        self.register_buffer("matrix", torch.ones(4, 4))
        self.register_buffer("last", torch.ones(1))
        self.matrix: Tensor

    @override
    def forward(self, input: Tensor) -> Tensor:
        return input @ self.matrix


def test_buffers_are_baked_too() -> None:
    model = register_parametrization(WithBuffer(), "matrix", ZeroDiagonal())
    baked = bake(model)
    assert sorted(baked._buffers) == ["first", "last", "matrix"]
    assert not list(baked.parameters())
    torch.testing.assert_close(baked(INPUTS), model(INPUTS))


def test_buffers_come_after_parameters_as_in_the_plain_model() -> None:
    model: Any = nn.BatchNorm1d(3)
    model.register_buffer("matrix", torch.ones(3, 3))
    expected = list(model.state_dict())
    register_parametrization(model, "matrix", ZeroDiagonal())
    assert list(bake(model).state_dict())[:2] == ["weight", "bias"]
    assert list(plain_state_dict(model)) == list(bake(model).state_dict())
    assert sorted(plain_state_dict(model)) == sorted(expected)


def test_the_order_of_parameters_is_kept_in_a_custom_module() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("a", "b", "c", "d"):
                setattr(self, name, nn.Parameter(torch.randn(3, 3)))

    model = register(Own(), {"c": Diagonal()})
    register(model, {"b": ZeroDiagonal()})
    assert [name for name, _ in bake(model).named_parameters()] == ["a", "b", "c", "d"]
    assert list(plain_state_dict(model)) == ["a", "b", "c", "d"]


def test_a_baked_model_pickles_scripts_quantizes_and_exports(tmp_path: Path) -> None:
    baked = bake(registered()).eval()
    output = baked(INPUTS)
    torch.testing.assert_close(pickle.loads(pickle.dumps(baked))(INPUTS), output)
    torch.save(baked, tmp_path / "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit and quantization are deprecated
        torch.testing.assert_close(torch.jit.script(baked)(INPUTS), output)
        quantized = torch.ao.quantization.quantize_dynamic(baked, {nn.Linear})  # type: ignore[no-untyped-call]
    assert quantized(INPUTS).shape == output.shape
    torch.testing.assert_close(torch.export.export(baked, (INPUTS,)).module()(INPUTS), output)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, fused=True),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("constrain", [registered, lambda: theirs(plain())], ids=["ours", "theirs"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_steps_on_after_baking_in_place(
    make: Callable[[Any], torch.optim.Optimizer], constrain: Callable[[], Any]
) -> None:
    model = constrain()
    optimizer = make(model.parameters())
    used(model)
    optimizer.step()
    kept = optimizer.state[model[4].bias]
    bake(model, inplace=True, optimizer=optimizer)
    assert optimizer.state[model[4].bias] is kept
    assert model[2].weight.grad is None
    before = model[4].weight.detach().clone()
    optimizer.zero_grad()
    used(model)
    optimizer.step()
    assert not torch.equal(model[4].weight, before)
    state = optimizer.state[model[2].weight]
    assert all(value.shape in ((4, 4), ()) for value in state.values() if isinstance(value, Tensor))
    assert {id(tensor) for group in optimizer.param_groups for tensor in group["params"]} == {
        id(parameter) for parameter in model.parameters()
    }


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_steps_on_after_baking_in_inference_mode(
    make: Callable[[Any], torch.optim.Optimizer],
) -> None:
    model = theirs(plain())
    optimizer = make(model.parameters())
    used(model)
    optimizer.step()
    with torch.inference_mode():
        bake(model, inplace=True, optimizer=optimizer)
    before = model[4].weight.detach().clone()
    optimizer.zero_grad()
    used(model)
    optimizer.step()
    assert not torch.equal(model[4].weight, before)
    held = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    assert not any(tensor.is_inference() for tensor in [*held, *model.parameters()])


@pytest.mark.slow
def test_a_failure_at_any_step_changes_nothing() -> None:
    model = theirs(plain())
    register(model, {"0.bias": nn.Identity()})
    optimizer = torch.optim.Adam(model.parameters())
    used(model)
    optimizer.step()
    before, held = everything(model), held_by(optimizer)
    for step in failures(lambda: bake(model, inplace=True, optimizer=optimizer)):
        assert everything(model) == before, f"step {step}"
        assert held_by(optimizer) == held
    assert step > 200
    assert not summary(model).rows


def test_spectral_norm_does_not_move_its_statistics() -> None:
    model: Any = nn.Sequential(spectral_norm(nn.Linear(4, 4)))
    before = everything(model)
    bake(model)
    plain_state_dict(model)
    assert everything(model) == before


def test_a_weight_too_large_to_build_is_refused_with_its_size() -> None:
    with torch.device("meta"):
        model = register(nn.Sequential(nn.Linear(2, 2), nn.Linear(2**20, 2**20)), {"1.weight": Diagonal()})
    model.to_empty(device="cpu")
    before = [type(module) for module in model.modules()]
    for call in (bake, plain_state_dict, lambda one: bake(one, inplace=True)):
        with pytest.raises(ValueError, match=r"needs 4.4 TB for dense weights on cpu, 4.4 TB of them for '1.weight'"):
            call(model)
    assert [type(module) for module in model.modules()] == before


def test_a_compiled_layer_bakes_and_copies_with_its_own_weights() -> None:
    layer = register(nn.Linear(4, 4), {"weight": ZeroDiagonal()})
    layer.compile(backend="eager")
    output = layer(INPUTS)
    baked, twin = bake(layer), copy.deepcopy(layer)
    with torch.no_grad():
        layer.bias.add_(100)
    torch.testing.assert_close(baked(INPUTS), output)
    torch.testing.assert_close(twin(INPUTS), output)


def with_its_own() -> Any:
    """A model with weight_norm in its architecture, like Wav2Vec2."""
    return nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 3))


PART: dict[str, Any] = {"1.weight": MaskedSparse(masks.banded(1, 1)), "2.*": Halved(), "0.weight": None}


@pytest.mark.parametrize("patterns", [PART, ["1.*", "2.weight", "2.bias"], "[12].*"], ids=["rules", "list", "one"])
@pytest.mark.parametrize("inplace", [False, True])
def test_patterns_bake_only_the_weights_that_they_name(patterns: Any, inplace: bool) -> None:
    model = register(with_its_own(), PART)
    output, before = model(INPUTS), everything(model)
    baked = bake(model, patterns, inplace=inplace)
    assert inplace or everything(model) == before
    assert [row.name for row in summary(baked).rows] == ["0.weight"]
    assert list(baked.state_dict()) == list(with_its_own().state_dict())
    torch.testing.assert_close(baked(INPUTS), output)
    fresh = with_its_own()
    fresh.load_state_dict(baked.state_dict())
    torch.testing.assert_close(fresh(INPUTS), output)
    torch.testing.assert_close(bake(baked)(INPUTS), output)
    used(baked)


def test_some_of_a_modules_tensors_are_baked() -> None:
    layer = register(
        nn.LSTM(4, 4),
        {"weight_hh_l0": ZeroDiagonal(blocks=4), "weight_ih_l0": MaskedSparse(masks.magnitude(density=0.5))},
    )
    output = layer(INPUTS)[0]
    for inplace in (False, True):
        baked = bake(layer, "weight_ih_l0", inplace=inplace)
        assert [row.name for row in summary(baked).rows] == ["weight_hh_l0"]
        torch.testing.assert_close(baked(INPUTS)[0], output)
        torch.testing.assert_close(bake(baked)(INPUTS)[0], output)
        baked.weight_hh_l0 = torch.zeros(16, 4)
        assert not bool(baked.weight_hh_l0.any())
    assert not bool(bake(layer)(torch.zeros(3, 4))[0].isnan().any())


def test_a_layer_that_stays_constrained_keeps_its_product_and_class() -> None:
    layer = register(nn.Linear(4, 4), {"weight": Diagonal(), "bias": Halved()})
    assert explain(bake(layer, "bias")).product == "elementwise"
    theirs_too = theirs(plain())
    output = theirs_too(INPUTS)
    twin = copy.deepcopy(theirs_too)  # shares PyTorch's injected classes
    bake(twin, "0.bias", inplace=True)
    torch.testing.assert_close(theirs_too(INPUTS), output)
    torch.testing.assert_close(twin(INPUTS), output)
    assert len(summary(twin).rows) == len(summary(theirs_too).rows) - 1


def test_remaining_constraints_load_old_checkpoints() -> None:
    layer = bake(register(weight_norm(nn.Linear(4, 4)), {"bias": Halved()}), "bias")
    old = {"weight_g": torch.ones(4, 1), "weight_v": torch.eye(4), "bias": torch.ones(4)}
    layer.load_state_dict(old)
    assert torch.equal(layer.weight, torch.eye(4))


def test_only_the_optimizer_state_of_baked_weights_is_dropped() -> None:
    model = register(with_its_own(), PART)
    optimizer = torch.optim.Adam(model.parameters())
    used(model)
    optimizer.step()
    kept = {tensor: optimizer.state[tensor] for tensor in model[0].parameters()}
    bake(model, "1.weight", inplace=True, optimizer=optimizer)
    assert model[1].weight not in optimizer.state
    assert all(optimizer.state[tensor] is state for tensor, state in kept.items())
    optimizer.zero_grad()
    used(model)
    optimizer.step()
    with pytest.raises(ValueError, match=r"bake needs the optimizer of .* such as '2.parametrizations"):
        bake(model, "2.*", inplace=True, optimizer=torch.optim.Adam(model[1].parameters()))


def test_a_failure_while_baking_a_part_changes_nothing() -> None:
    model = register(plain(), {"0.*": Halved()})
    before = everything(model)
    for step in failures(lambda: bake(model, "0.weight", inplace=True)):
        assert everything(model) == before, f"step {step}"
    assert step > 200
    assert len(summary(model).rows) == 1


def test_a_pattern_that_names_nothing_constrained_is_refused() -> None:
    model = register(with_its_own(), PART)
    message = (
        r"bake needs a constrained tensor for '1.bias'. Got no match among 4 names. Names that are close: '2.bias'"
    )
    with pytest.raises(ValueError, match=message):
        bake(model, ["1.weight", "1.bias"], inplace=True)
    assert len(summary(model).rows) == 4
    for wrong in (True, [nn.Identity()]):
        with pytest.raises(
            TypeError, match=r"bake needs names, patterns of them, or classes of layers. Got (bool|Identity)"
        ):
            bake(model, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("frozen", [["original0"], ["original0", "original1"]], ids=["a part", "all"])
def test_a_weight_with_only_frozen_tensors_stays_frozen(frozen: list[str]) -> None:
    layer = weight_norm(nn.Linear(4, 4))
    for name in frozen:
        getattr(layer.parametrizations.weight, name).requires_grad_(False)
    assert bake(layer).weight.requires_grad == (len(frozen) < 2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)
        self.head.weight = self.embedding.weight

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.head(self.embedding(input))
        return output


def test_a_stored_tensor_used_elsewhere_stays_unchanged() -> None:
    model, inputs = Tied(), torch.arange(4)
    register_parametrization(model.head, "weight", NegExpDiagonal())
    output = model(inputs)
    torch.testing.assert_close(bake(model)(inputs), output)
    optimizer = torch.optim.Adam(model.parameters())
    used_elsewhere = model.embedding.weight
    bake(model, inplace=True, optimizer=optimizer)
    torch.testing.assert_close(model(inputs), output)
    assert model.embedding.weight is used_elsewhere


def test_a_module_that_a_parametrization_refers_to_is_baked_too() -> None:
    class Transposed(nn.Module):
        def __init__(self, other: nn.Linear) -> None:
            super().__init__()
            self.other = other

        @override
        def forward(self, x: Tensor) -> Tensor:
            return self.other.weight.mT + 0 * x

    model: Any = nn.ModuleDict({"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 3)})
    register(model, {"encoder.weight": Diagonal()})
    register_parametrization(model["decoder"], "weight", Transposed(model["encoder"]), unsafe=True)
    expected = ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"]
    assert list(bake(model).state_dict()) == expected
    unconstrained: Any = nn.ModuleDict({"encoder": nn.Linear(3, 3), "decoder": nn.Linear(3, 3)})
    register_parametrization(unconstrained["decoder"], "weight", Transposed(unconstrained["encoder"]), unsafe=True)
    unconstrained.load_state_dict(plain_state_dict(model))
    assert list(plain_state_dict(model)) == list(unconstrained.state_dict())


def test_baked_in_inference_mode_it_still_trains() -> None:
    model = registered()
    with torch.inference_mode():
        bake(model, inplace=True)
    used(model)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_copy_that_is_baked_in_inference_mode_trains() -> None:
    model = registered()
    with torch.inference_mode():
        baked = bake(model)
        twin = copy.deepcopy(model)
        again = bake(twin)
    for one in (baked, again, bake(twin)):
        assert all(tensor.grad is not None for tensor in used(one).parameters())
        torch.testing.assert_close(one(INPUTS), model(INPUTS))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("within", [True, False])
def test_a_copy_made_in_inference_mode_bakes_in_place_and_trains(
    within: bool, make: Callable[[Any], torch.optim.Optimizer]
) -> None:
    model: Any = nn.Sequential(registered(), nn.BatchNorm1d(3), nn.RNN(3, 3)).eval()
    model[0][4].bias = model[1].bias  # tied
    with torch.inference_mode():
        twin = copy.deepcopy(model)
        optimizer = make(twin.parameters())
        if within:
            bake(twin, inplace=True, optimizer=optimizer)
    if not within:
        bake(twin, inplace=True, optimizer=optimizer)
    assert not any(tensor.is_inference() for tensor in (*twin.parameters(), *twin.buffers()))
    assert twin[0][4].bias is twin[1].bias
    for before, after in zip(model(INPUTS), twin(INPUTS), strict=True):
        torch.testing.assert_close(before, after)
    twin(INPUTS)[0].sum().backward()
    weights = [parameter.detach().clone() for parameter in twin.parameters()]
    optimizer.step()
    changed = [not torch.equal(one, other) for one, other in zip(weights, twin.parameters(), strict=True)]
    assert all(changed)


def test_a_refusal_leaves_inference_tensors_unchanged() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4), nn.RNN(4, 4))
    before = everything(model)
    with pytest.raises(ValueError, match="hold together"):
        register(model, {"0.weight": [ZeroDiagonal(), NegExpDiagonal()]})
    assert everything(model) == before


def test_attributes_that_getstate_leaves_out_are_not_copied() -> None:
    class Locked(nn.Linear):
        def __init__(self, columns: int, rows: int) -> None:
            super().__init__(columns, rows)
            self.lock = threading.Lock()

        @override
        def __getstate__(self) -> dict[str, Any]:
            state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
            del state["lock"]
            return state

    layer = register(Locked(4, 4), {"weight": ZeroDiagonal()})
    torch.testing.assert_close(bake(layer)(INPUTS), layer(INPUTS))


def test_modules_that_keep_computed_tensors_bake() -> None:
    class Keeping(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            self.last = 2 * x
            return self.last

    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    register_parametrization(model[0], "weight", Keeping())
    prune.l1_unstructured(model[1], "weight", amount=0.5)  # type: ignore[no-untyped-call]
    output = model(INPUTS)
    torch.testing.assert_close(bake(model)(INPUTS), output)
    assert len(summary(model).rows) == 1


def test_a_recurrent_layer_that_has_run_keeps_its_plain_weights() -> None:
    layer = register(nn.RNN(4, 4), {"weight_hh_l0": ZeroDiagonal()})
    layer(INPUTS)
    names = [name for name, _ in nn.RNN(4, 4).named_parameters()]
    for baked in (bake(layer), bake(copy.deepcopy(layer)), bake(copy.deepcopy(layer), inplace=True)):
        assert [name for name, _ in baked.named_parameters()] == names
        assert all(weight is getattr(baked, name) for weight, name in zip(baked._flat_weights, names, strict=True))
        baked(INPUTS)[0].sum().backward()
        assert all(parameter.grad is not None for parameter in baked.parameters())


def test_a_pruned_layer_beside_a_baked_one_is_copied_and_pickled() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.l1_unstructured(model[1], "weight", amount=0.5)  # type: ignore[no-untyped-call]
    register(model, {"0.weight": Diagonal()})
    output = model(INPUTS)
    baked = bake(model)  # keeps no graph of the last pass
    for twin in (copy.deepcopy(baked), pickle.loads(pickle.dumps(baked)), baked):
        torch.testing.assert_close(twin(INPUTS), output)
        used(twin)


class Transposing(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.mT

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.mT.contiguous()


def test_a_transposed_view_bakes_to_a_weight_of_its_own() -> None:
    layer: Any = register_parametrization(nn.Linear(4, 4), "weight", Transposing())
    baked = bake(layer)
    assert baked.weight.is_contiguous()
    assert torch.equal(baked.weight, layer.weight)
    assert plain_state_dict(register(nn.Linear(4, 4), {"weight": Transposing()}))["weight"].is_contiguous()


def test_the_names_in_an_optimizer_follow() -> None:
    model: Any = nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    optimizer = torch.optim.Adam(model.named_parameters())
    bake(model, inplace=True, optimizer=optimizer)
    (group,) = optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(tensor)] for tensor in group["params"]] == group["param_names"]
    assert len(names) == len(group["params"]) == 4


def test_the_optimizer_state_of_every_stored_tensor_is_dropped() -> None:
    layer = weight_norm(nn.Linear(3, 3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    bake(layer, inplace=True, optimizer=optimizer)
    assert list(optimizer.state) == [layer.bias]
    assert len(optimizer.state_dict()["state"]) == 1


def test_tensors_stored_in_two_groups_train_in_the_first() -> None:
    layer = weight_norm(nn.Linear(3, 3))
    norm, direction = layer.parametrizations.weight.parameters()
    named = [("bias", layer.bias), ("direction", direction)]
    optimizer = torch.optim.SGD([{"params": [("norm", norm)]}, {"params": named}], lr=0.1)
    bake(layer, inplace=True, optimizer=optimizer)
    first, second = optimizer.param_groups
    assert first["params"] == [layer.weight]
    assert first["param_names"] == ["weight"]
    assert second["params"] == [layer.bias]
    assert second["param_names"] == ["bias"]


def test_adagrad_trains_tensors_stored_in_two_groups_in_the_first() -> None:
    layer = weight_norm(nn.Linear(3, 3))
    norm, direction = layer.parametrizations.weight.parameters()
    optimizer = torch.optim.Adagrad([{"params": [norm, layer.bias]}, {"params": [direction]}])
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    bake(layer, inplace=True, optimizer=optimizer)
    assert [group["params"] for group in optimizer.param_groups] == [[layer.weight, layer.bias], []]
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"bake needs a model. Got dict"):
        bake({})  # type: ignore[type-var]
    model = registered()
    with pytest.raises(TypeError, match=r"bake needs a torch.optim.Optimizer. Got list"):
        bake(model, inplace=True, optimizer=[])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs inplace=True to change an optimizer"):
        bake(model, optimizer=torch.optim.SGD(model.parameters()))
    with pytest.raises(
        ValueError, match=r"bake needs the optimizer of .* such as '0.parametrizations.weight.original'"
    ):
        bake(model, inplace=True, optimizer=torch.optim.SGD(plain().parameters()))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rule", [*RULES.values(), MaskedSparse(masks.banded(1, 1))], ids=str)
def test_another_layer_that_shares_the_stored_tensor_stays_unchanged(
    rule: Any, make: Callable[[Any], torch.optim.Optimizer]
) -> None:
    layer: Any = register(nn.Linear(4, 4), {"weight": rule})
    other: Any = transfer_parametrizations_and_params(layer, nn.Linear(4, 4), "weight")
    optimizer = make(other.parameters())
    used(other)
    optimizer.step()
    weight, state = other.weight.detach().clone(), dict(optimizer.state)
    bake(layer, inplace=True, optimizer=optimizer)
    assert torch.equal(other.weight, weight)
    assert torch.equal(layer.weight, weight)
    assert all(optimizer.state[tensor] is held for tensor, held in state.items())
    used(nn.Sequential(layer, other))
    optimizer.step()
    assert not torch.equal(layer.weight, weight)
    assert not torch.equal(other.weight, weight)


def test_a_tensor_shared_with_a_deleted_layer_keeps_its_identity() -> None:
    layer: Any = register(nn.Linear(4, 4), {"weight": ZeroDiagonal()})
    stored = layer.parametrizations.weight.original
    other = transfer_parametrizations_and_params(layer, nn.Linear(4, 4), "weight")
    assert bake(copy.deepcopy(layer), inplace=True).weight is not stored
    del other
    gc.collect()
    assert bake(layer, inplace=True).weight is stored
