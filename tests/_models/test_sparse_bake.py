"""Sparse weights for inference, and what PyTorch cannot do with them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from parametrizations import Diagonal, MaskedSparse, Signed, ZeroDiagonal, bake, masks, register

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse"),
    pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch multiplies with MKL"),  # type: ignore[no-untyped-call]
]


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 5, bias=False), nn.Linear(5, 4))


def model_of(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    signs = torch.tensor([1, -1, 1, -1, 1])
    rules: dict[str, Any] = {
        "0.weight": MaskedSparse(masks.random(density=0.3)),
        "2.weight": [Diagonal(), Signed(1)],
        "3.weight": [MaskedSparse(masks.random(density=0.5)), Signed(signs)],
    }
    return register(plain().to(dtype), rules)


def sparse(model: nn.Module | None = None) -> Any:
    return bake(model_of() if model is None else model, layout=torch.sparse_csr)


INPUTS = {
    "a vector": torch.randn(7),
    "a batch": torch.randn(3, 7),
    "a sequence": torch.randn(2, 3, 7),
    "no rows": torch.randn(0, 7),
    "a transposed batch": torch.randn(7, 3).T,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", INPUTS)
def test_the_sparse_model_gives_the_same_output(name: str, dtype: torch.dtype) -> None:
    model, input = model_of(dtype), INPUTS[name].to(dtype)
    before = copy.deepcopy(model.state_dict())
    baked = sparse(model)
    torch.testing.assert_close(baked(input), model(input))
    assert {key: value.tolist() for key, value in model.state_dict().items()} == {
        key: value.tolist() for key, value in before.items()
    }
    layers = [baked[0], baked[2], baked[3]]
    assert [type(layer) for layer in layers] == [nn.Linear] * 3
    assert [layer.weight.layout for layer in layers] == [torch.sparse_csr] * 3
    assert [layer.weight.requires_grad for layer in layers] == [False] * 3
    assert [name for name, _ in baked.named_parameters()] == [name for name, _ in plain().named_parameters()]


def test_in_place_and_by_pattern() -> None:
    model, input = model_of(), torch.randn(2, 7)
    expected = model(input)
    assert bake(model, "0.weight", layout=torch.sparse_csr, inplace=True) is model
    assert model[0].weight.layout is torch.sparse_csr
    assert type(model[2]) is not nn.Linear
    torch.testing.assert_close(model(input), expected)


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    register(model, {"*.weight": MaskedSparse(masks.random(density=0.5))})
    baked = sparse(model)
    assert baked[0].weight is baked[1].weight
    torch.testing.assert_close(baked(torch.ones(1, 4)), model(torch.ones(1, 4)))


def test_a_mask_without_entries() -> None:
    with pytest.warns(UserWarning, match="keeps none"):
        layer = register(nn.Linear(6, 4), {"weight": MaskedSparse(torch.zeros(4, 6, dtype=torch.bool))})
    assert torch.equal(sparse(layer)(torch.ones(2, 6)), layer(torch.ones(2, 6)))


def saved(value: object) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=isinstance(value, dict))


def exported(baked: nn.Module) -> Any:
    return torch.export.export(baked, (torch.randn(3, 7),)).module()


def loaded(baked: nn.Module) -> nn.Module:
    model = plain()
    model.load_state_dict(saved(baked.state_dict()), assign=True)
    return model


def loaded_constrained(baked: nn.Module) -> nn.Module:
    model = model_of()
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    model.load_state_dict(saved(baked.state_dict()))
    return model


def traced(baked: nn.Module) -> Any:
    return torch.jit.trace(baked, torch.randn(3, 7))  # type: ignore[no-untyped-call]


WORKS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda baked: pickle.loads(pickle.dumps(baked)),
    "torch.save of the model": saved,
    "torch.export.export": exported,
    "load_state_dict(assign=True) of a plain model": loaded,
    "load_state_dict of the constrained model": loaded_constrained,
    "torch.jit.trace": traced,
    "torch.compile": torch.compile,
}


@pytest.mark.parametrize("name", WORKS)
def test_what_works_with_sparse_weights(name: str) -> None:
    baked, input = sparse(), torch.randn(3, 7)
    torch.testing.assert_close(WORKS[name](baked)(input), baked(input))


def autocast(baked: nn.Module) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output: Tensor = baked(torch.randn(3, 7))
        return output


def inference(baked: nn.Module) -> Tensor:
    with torch.inference_mode():
        output: Tensor = baked(torch.randn(3, 7))
        return output


def encoder() -> Any:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return sparse(register(layer, {"linear*.weight": MaskedSparse(masks.random(density=0.3))})).eval()


def encode(_: nn.Module) -> None:
    with torch.no_grad():
        encoder()(torch.randn(2, 3, 8))


def test_without_its_fast_path_an_encoder_runs_with_sparse_weights() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        encode(nn.Identity())
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def export_to_a_file(baked: nn.Module) -> None:
    torch.export.save(torch.export.export(baked, (torch.randn(3, 7),)), io.BytesIO())


def save_as_safetensors(baked: nn.Module) -> None:
    safetensors.torch.save(baked.state_dict())


def export_to_onnx(baked: nn.Module) -> None:
    torch.onnx.export(baked.eval(), (torch.randn(3, 7),), dynamo=True)


FAILS: dict[str, tuple[Callable[[Any], object], str]] = {
    "copy.deepcopy": (copy.deepcopy, "memory format"),
    "model.double()": (lambda baked: baked.double()(torch.randn(3, 7).double()), "dtype"),
    "model.half()": (lambda baked: baked.half()(torch.randn(3, 7).half()), "dtype"),
    "torch.autocast": (autocast, "not implemented for 'BFloat16'"),
    "torch.inference_mode": (inference, "version_counter"),
    "nn.TransformerEncoderLayer": (encode, "_transformer_encoder_layer_fwd"),
    "torch.compile(fullgraph=True)": (
        lambda baked: torch.compile(baked, fullgraph=True)(torch.randn(3, 7)),  # type: ignore[no-untyped-call]
        "sparse Tensor",
    ),
    "torch.export.save": (export_to_a_file, "is_contiguous"),
    "torch.onnx.export": (export_to_onnx, "ONNX|onnx"),
    "safetensors": (save_as_safetensors, "sparse tensors"),
    "load_state_dict": (
        lambda baked: plain().load_state_dict(baked.state_dict()),
        "While copying the parameter",
    ),
    "share_memory()": (lambda baked: baked.share_memory(), "storage"),
}


@pytest.mark.parametrize("name", FAILS)
def test_what_pytorch_cannot_do_with_sparse_weights_is_listed(name: str) -> None:
    """If one of these begins to work, remove its row from the manual."""
    call, message = FAILS[name]
    torch._dynamo.reset()
    with pytest.raises(Exception, match=message):
        call(sparse())
    page = Path(__file__).parents[2] / "docs/guides/very_large_weights.md"
    assert f"| `{name}`" in page.read_text()


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "half precision": (lambda: sparse(model_of().half()), "float32 or float64 on a CPU.*torch.float16"),
    "another device": (lambda: sparse(model_of().to("meta")), "float32 or float64 on a CPU.*on meta"),
    "a convolution": (
        lambda: sparse(register(nn.Conv2d(3, 3, 3), {"weight": MaskedSparse(masks.random(density=0.1))})),
        "weights of nn.Linear.*Got 'weight' of Conv2d with MaskedSparse.*Bake this one first",
    ),
    "a full weight": (
        lambda: sparse(register(nn.Linear(3, 3), {"weight": ZeroDiagonal()})),
        "store some entries.*Got 'weight' of Linear with ZeroDiagonal",
    ),
    "another layout": (lambda: bake(model_of(), layout=torch.sparse_coo), "Got torch.sparse_coo"),
    "an optimizer": (
        lambda: bake(
            model := model_of(),
            layout=torch.sparse_csr,
            inplace=True,
            optimizer=torch.optim.SGD(model.parameters(), 0.1),
        ),
        "Got torch.sparse_csr with an optimizer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_become_sparse_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s)bake needs .*{message}"):
        call()


def test_without_mkl_sparse_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parametrizations._models.bake.HAS_MKL", False)
    with pytest.raises(ValueError, match=r"without MKL. Leave layout out"):
        sparse()


def test_a_sparse_checkpoint_with_other_entries_follows_the_mask() -> None:
    layer = register(nn.Linear(4, 4, bias=False), {"weight": MaskedSparse(masks.lower_triangular())})
    inside = torch.diag(torch.arange(1.0, 5.0))
    layer.load_state_dict({"weight": inside.to_sparse_csr()})
    assert torch.equal(layer.weight.detach(), inside)
    with pytest.raises(RuntimeError, match="every entry outside the mask to be 0"):
        layer.load_state_dict({"weight": torch.ones(4, 4).to_sparse_csr()})
    with pytest.raises(RuntimeError, match="finite"):
        layer.load_state_dict({"weight": torch.full((4, 4), torch.inf).tril().to_sparse_csr()})
    assert torch.equal(layer.weight.detach(), inside)


@pytest.mark.parametrize("make", [Diagonal, lambda: MaskedSparse(masks.banded(0, 0))])
def test_a_sparse_checkpoint_with_wrong_indices_is_refused(make: Callable[[], Any]) -> None:
    layer = register(nn.Linear(3, 3, bias=False), {"weight": make()})
    before = layer.weight.detach().clone()
    wrong = torch.sparse_csr_tensor([0, 2, 1, 2], [0, 1], [1.0, 1.0], (3, 3), check_invariants=False)
    with pytest.raises(RuntimeError, match=r"valid indices. Got one of layout torch.sparse_csr"):
        layer.load_state_dict({"weight": wrong})
    assert torch.equal(layer.weight.detach(), before)


def test_a_sparse_weight_is_constrained_only_after_it_is_dense() -> None:
    with pytest.raises(TypeError, match=r"needs a dense tensor. Got torch.sparse_csr. Pass weight.to_dense\(\)"):
        register(sparse(), {"0.weight": ZeroDiagonal()})
