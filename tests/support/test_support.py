"""What of PyTorch works with each constraint: a test for each cell of the manual's matrix."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parameters_to_vector, parametrize, vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from parametrizations import bake, dense_gradients, plain_state_dict, remask
from tests.support.matrix import CASES, LIMITS, WAYS, WITH_MASKS, Case, limit_of

Test = Callable[..., None]

of_the_compiler = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated",  # the compiler, about autograd functions
    "ignore:The .grad attribute of a Tensor",
    "ignore:`torch._prims_common.check` is deprecated",
)
pytestmark = [pytest.mark.matrix, of_the_compiler]


def feature(function: Test, cases: list[Case] = CASES) -> Test:
    """A row of the matrix: the test runs for every case, and where a limit is known it has to fail as stated."""
    name = function.__name__.removeprefix("test_")
    parameters = []
    for case in cases:
        limit = limit_of(name, case)
        marks = [pytest.mark.xfail(strict=True, raises=limit.raises, reason=limit.reason)] if limit else []
        parameters.append(pytest.param(case, id=str(case), marks=marks))
    marked: Test = pytest.mark.parametrize("case", parameters)(function)
    return marked


fused_only = functools.partial(feature, cases=[case for case in CASES if case.way == "fused"])
masked_only = functools.partial(feature, cases=[case for case in CASES if case.kind in WITH_MASKS])


@pytest.fixture(autouse=True)
def cell(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Tell the program that writes the table which cell this test is."""
    if "case" in request.fixturenames:
        case = request.getfixturevalue("case")
        record_property("feature", request.node.originalname.removeprefix("test_"))
        record_property("kind", case.kind)
        record_property("way", case.way)


def gradients(call: Callable[[Tensor], Tensor], leaves: list[Tensor], x: Tensor) -> list[Tensor]:
    output = call(x)
    return [output, *torch.autograd.grad(output.square().sum(), [x, *leaves])]


def require_equal(case: Case, call: Callable[[Tensor], Tensor], layer: Any, batch: int = 3) -> None:
    """The output and all gradients are those of the plain layer with the dense weight."""
    plain = case.plain()

    def product(x: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(plain, {"weight": layer.weight, "bias": layer.bias}, x)
        return output

    leaves, x = list(layer.parameters()), case.inputs(batch).requires_grad_()
    for got, expected in zip(gradients(call, leaves, x), gradients(product, leaves, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


class Counted:
    """A backend of `torch.compile` that counts its graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        from torch._dynamo.backends.debugging import aot_eager

        self.graphs += 1
        compiled: Callable[..., Any] = aot_eager(graph, example)
        return compiled


@feature
def test_compiling(case: Case) -> None:
    """`torch.compile(fullgraph=True)`, forward and backward, with changing batch sizes."""
    torch.compiler.reset()
    layer, backend = case.layer(), Counted()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for batch in (3, 5, 7, 9):
        require_equal(case, compiled, layer, batch)
    assert backend.graphs <= 2  # one for the first size, one for all


@fused_only
def test_compiling_with_inductor(case: Case) -> None:
    """`torch.compile` with its default backend, and with `mode="reduce-overhead"`."""
    for mode in ("default", "reduce-overhead"):
        torch.compiler.reset()
        layer = case.layer()
        require_equal(case, torch.compile(layer, fullgraph=True, mode=mode), layer)


class Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.layer(x).relu()
        return output


def graphs_of_blocks(case: Case, layers: list[nn.Module], batches: tuple[int, ...], training: bool) -> int:
    torch.compiler.reset()
    blocks, backend = [Block(layer) for layer in layers], Counted()
    for block in blocks:
        block.compile(backend=backend)
    for batch in batches:
        x = case.inputs(batch)
        with torch.set_grad_enabled(training):
            for block in blocks:
                x = block(x)
        if training:
            x.sum().backward()  # type: ignore[no-untyped-call]
    return backend.graphs


@feature
def test_compiling_block_by_block(case: Case) -> None:
    """Twelve blocks compiled one by one: no more graphs than without constraints."""
    plain, layers = [case.plain() for _ in range(12)], [case.layer() for _ in range(12)]
    for training in (True, False):
        for batches in ((3,), (2, 3, 4)):
            graphs = [graphs_of_blocks(case, each, batches, training) for each in (layers, plain)]
            assert graphs[0] <= graphs[1]


@feature
def test_exporting(case: Case) -> None:
    """`torch.export`, strict and not, any batch size, saved and loaded again."""
    layer = case.layer()
    for strict in (True, False):
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(layer, (case.inputs(),), dynamic_shapes=shapes, strict=strict)
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file)
        assert "parametrizations::" not in str(loaded.graph)
        torch.testing.assert_close(loaded.module()(case.inputs(7)), layer(case.inputs(7)))


class Together(nn.Module):
    """One layer of each case, for what takes long to build."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(case.layer() for case in CASES)

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))

    def inputs(self, batch: int) -> list[Tensor]:
        return [case.inputs(batch) for case in CASES]


@pytest.fixture(scope="module")
def together() -> Together:
    return Together().eval()


@pytest.fixture(scope="module")
def through_onnx(together: Together, tmp_path_factory: pytest.TempPathFactory) -> list[list[Tensor]]:
    """The outputs of the constrained layers, and of the baked ones."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return [outputs_of_onnx(model, path) for model in (together, bake(together))]


def outputs_of_onnx(model: Together, path: Path) -> list[Tensor]:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        batch: Any = ([{0: torch.export.Dim("batch")}] * len(CASES),)
        torch.onnx.export(model, (model.inputs(3),), path, dynamo=True, dynamic_shapes=batch, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = zip(session.get_inputs(), model.inputs(5), strict=True)
    outputs = session.run(None, {input.name: x.numpy() for input, x in given})
    return [torch.as_tensor(output) for output in outputs]


@feature
def test_onnx(case: Case, together: Together, through_onnx: list[list[Tensor]]) -> None:
    """`torch.onnx.export(dynamo=True)`, run in ONNX Runtime, also after baking."""
    place = CASES.index(case)
    for outputs in through_onnx:
        torch.testing.assert_close(outputs[place], together(together.inputs(5))[place], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def through_aotinductor(together: Together, tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    path = tmp_path_factory.mktemp("aotinductor") / "model.pt2"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the compiler's own
        program = torch.export.export(together, (together.inputs(3),))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        outputs: list[Tensor] = list(torch._inductor.aoti_load_package(package)(together.inputs(3)))
    return outputs


@feature
def test_aotinductor(case: Case, together: Together, through_aotinductor: list[Tensor]) -> None:
    """AOTInductor: compiled, packaged, loaded."""
    place = CASES.index(case)
    torch.testing.assert_close(through_aotinductor[place], together(together.inputs(3))[place])


@feature
def test_tracing(case: Case) -> None:
    """`torch.jit.trace`, saved and loaded."""
    layer, file = case.layer(), io.BytesIO()
    torch.jit.save(torch.jit.trace(layer, (case.inputs(),)), file)  # type: ignore[no-untyped-call]
    file.seek(0)
    loaded = torch.jit.load(file)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loaded(case.inputs(4)), layer(case.inputs(4)))


@feature
def test_symbolic_tracing(case: Case) -> None:
    """`torch.fx.symbolic_trace`."""
    model = nn.Sequential(case.layer(), nn.ReLU())
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(case.inputs()), model(case.inputs()))


def functional(layer: Any) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    def call(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(layer, parameters, (x,))
        return output

    return call


def detached(layer: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}


@feature
def test_functional_call(case: Case) -> None:
    """`torch.func.functional_call` and `grad`."""
    layer, other = case.layer(), case.layer(1)
    call = functional(layer)
    torch.testing.assert_close(call(detached(other), case.inputs()), other(case.inputs()), rtol=1e-5, atol=1e-5)
    got = torch.func.grad(lambda parameters: call(parameters, case.inputs()).square().sum())(detached(layer))
    expected = torch.autograd.grad(layer(case.inputs()).square().sum(), list(layer.parameters()))
    for one, other_gradient in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(one, other_gradient)


@feature
def test_vmap_over_samples(case: Case) -> None:
    """`torch.func.vmap`: a gradient for each sample."""
    layer = case.layer()
    call = functional(layer)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return call(parameters, x[None]).square().sum()

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(detached(layer), case.inputs())
    for place, x in enumerate(case.inputs()):
        expected = torch.func.grad(loss)(detached(layer), x)
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name][place], gradient)


@feature
def test_vmap_over_stacked_models(case: Case) -> None:
    """`torch.func.stack_module_state` and `vmap` over models."""
    models = [case.layer(seed) for seed in range(3)]
    parameters, _ = torch.func.stack_module_state(models)
    together = torch.func.vmap(functional(models[0]), in_dims=(0, None))(parameters, case.inputs())
    torch.testing.assert_close(together, torch.stack([model(case.inputs()) for model in models]))


@feature
def test_higher_transforms(case: Case) -> None:
    """`torch.func.jvp`, `jacrev`, `jacfwd` and `hessian`."""
    layer = case.layer()
    plain = case.dense(layer)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(layer)(case.inputs()), transform(plain)(case.inputs()))
    tangent = torch.ones_like(case.inputs())
    torch.testing.assert_close(
        torch.func.jvp(layer, (case.inputs(),), (tangent,)), torch.func.jvp(plain, (case.inputs(),), (tangent,))
    )
    hessians = [torch.func.hessian(lambda x, one=one: one(x).pow(3).sum())(case.inputs()) for one in (layer, plain)]
    torch.testing.assert_close(*hessians, rtol=1e-4, atol=1e-5)


@feature
def test_double_backward(case: Case) -> None:
    """Double backward, and anomaly mode."""
    layer = case.layer().double()

    def penalty(parameter: Tensor, x: Tensor) -> Tensor:
        output = torch.func.functional_call(layer, {"parametrizations.weight.original": parameter}, (x,))
        (gradient,) = torch.autograd.grad(output.pow(2).sum(), x, create_graph=True)
        return gradient.pow(2).sum()

    with torch.autograd.set_detect_anomaly(True):
        leaves = case.stored(layer).detach().requires_grad_(), case.inputs().double().requires_grad_()
        assert torch.autograd.gradcheck(penalty, leaves)


@feature
def test_forward_mode(case: Case) -> None:
    """Forward-mode AD, and `is_grads_batched`."""
    layer, tangent = case.layer(), torch.ones_like(case.inputs())
    plain = case.dense(layer)
    with forward_ad.dual_level():
        dual: Tensor = forward_ad.make_dual(case.inputs(), tangent)  # type: ignore[no-untyped-call]
        got, expected = (forward_ad.unpack_dual(one(dual)) for one in (layer, plain))  # type: ignore[no-untyped-call]
        torch.testing.assert_close(got.tangent, expected.tangent)
    x = case.inputs().requires_grad_()
    vectors = torch.eye(x.numel()).view(-1, *x.shape)
    batched = [torch.autograd.grad(one(x), x, vectors, is_grads_batched=True)[0] for one in (layer, plain)]
    torch.testing.assert_close(*batched)


@feature
def test_hooks(case: Case) -> None:
    """Hooks on modules, parameters and gradients."""
    layer, seen = case.layer(), []
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    layer.register_forward_hook(lambda *_: seen.append("after"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    stored: Any = case.stored(layer)
    stored.register_hook(lambda _: seen.append("gradient"))
    stored.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
    layer(case.inputs().requires_grad_()).sum().backward()
    assert sorted(seen) == ["accumulated", "after", "backward", "before", "gradient"]


@feature
def test_activation_checkpointing(case: Case) -> None:
    """`torch.utils.checkpoint`, reentrant and not."""
    layer = case.layer()
    for reentrant in (True, False):
        if not reentrant:  # the other has no gradients of single tensors
            require_equal(case, functools.partial(checkpoint, layer, use_reentrant=False), layer)
        x = case.inputs().requires_grad_()
        layer.zero_grad()
        checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
        assert case.stored(layer).grad is not None


@feature
def test_mixed_precision(case: Case) -> None:
    """AMP: bfloat16 autocast, and `GradScaler`."""
    layer = case.layer()
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(layer.parameters(), lr=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(case.inputs())
        expected = case.dense(layer)(case.inputs())
    assert output.dtype is expected.dtype
    torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
    before = layer.weight.detach().clone()
    scaler.scale(output.float().square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(layer.weight, before)


@feature
def test_cached(case: Case) -> None:
    """`parametrize.cached()`."""
    layer, built = case.layer(), []
    expected = layer(case.inputs())
    for step in layer.parametrizations.weight:
        step.register_forward_hook(lambda *_: built.append(1))
    with parametrize.cached():
        for _ in range(5):
            torch.testing.assert_close(layer(case.inputs()), expected)
        assert len(built) <= len(layer.parametrizations.weight)
        assert layer.weight is layer.weight
        (gradient,) = torch.autograd.grad(layer(case.inputs()).sum(), case.stored(layer))
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), case.stored(layer))[0])


@feature
def test_cached_on_deep_copies(case: Case) -> None:
    """`parametrize.cached()` on a model and a deep copy of it at once."""
    layer = case.layer()
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        case.stored(twin).add_(1)
    expected = twin.weight.detach()
    with parametrize.cached():
        _ = layer.weight
        torch.testing.assert_close(twin.weight, expected)


@feature
def test_copies(case: Case) -> None:
    """`copy.deepcopy` and `AveragedModel` (EMA), also over buffers."""
    layer = case.layer()
    decay = get_ema_multi_avg_fn(0.5)  # type: ignore[no-untyped-call]
    twin, average = copy.deepcopy(layer), AveragedModel(layer, multi_avg_fn=decay, use_buffers=True)
    with torch.no_grad():
        case.stored(layer).add_(0.5)
    for _ in range(2):
        average.update_parameters(layer)
    torch.testing.assert_close(twin(case.inputs()), case.layer()(case.inputs()))
    torch.testing.assert_close(average(case.inputs()), case.dense(average.module)(case.inputs()))


@feature
def test_removing_from_deep_copies(case: Case) -> None:
    """PyTorch's `remove_parametrizations` on a deep copy leaves the original whole."""
    layer = case.layer()
    expected = layer(case.inputs())
    parametrize.remove_parametrizations(copy.deepcopy(layer), "weight")
    torch.testing.assert_close(layer(case.inputs()), expected)
    torch.testing.assert_close(case.dense(layer)(case.inputs()), expected)


@pytest.fixture(params=[False, True])
def swapping(request: pytest.FixtureRequest) -> Iterator[bool]:
    torch.__future__.set_swap_module_params_on_conversion(request.param)
    yield request.param
    torch.__future__.set_swap_module_params_on_conversion(False)


@feature
def test_moving(case: Case, swapping: bool) -> None:  # noqa: ARG001
    """`.to`, `.half`, `.double`, meta and `to_empty`, with `swap_tensors` on and off."""
    layer = case.layer()
    weight = layer.weight.detach().clone()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        moved = copy.deepcopy(layer).to(dtype)
        assert moved(case.inputs().to(dtype)).dtype is dtype
        torch.testing.assert_close(moved.weight.float(), weight, rtol=0.02, atol=0.02)
    state = copy.deepcopy(layer.state_dict())
    moved = copy.deepcopy(layer).to("meta")
    assert moved(case.inputs().to("meta")).is_meta
    moved = moved.to_empty(device="cpu")
    moved.load_state_dict(state)
    torch.testing.assert_close(moved.weight, weight)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    name: functools.partial(getattr(torch.optim, name), lr=0.01)
    for name in (
        "Adadelta",
        "Adafactor",
        "Adagrad",
        "Adam",
        "Adamax",
        "AdamW",
        "ASGD",
        "LBFGS",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
    )
}
OPTIMIZERS |= {
    f"{name}, foreach": functools.partial(OPTIMIZERS[name], foreach=True) for name in ("Adam", "AdamW", "SGD")
}
OPTIMIZERS |= {
    f"{name}, fused": functools.partial(OPTIMIZERS[name], fused=True) for name in ("Adagrad", "Adam", "AdamW", "SGD")
}


@feature
def test_optimizers(case: Case) -> None:
    """Every built-in optimizer, `foreach` and `fused` too: the constraint holds after each step."""
    for make in OPTIMIZERS.values():
        layer = case.layer()
        (*_, last) = layer.parametrizations.weight
        optimizer = make(layer.parameters())
        before = layer.weight.detach().clone()
        for _ in range(3):

            def loss() -> Tensor:
                optimizer.zero_grad()  # noqa: B023
                value: Tensor = layer(case.inputs()).square().sum()  # noqa: B023
                value.backward()  # type: ignore[no-untyped-call]
                return value

            optimizer.step(loss)
            assert last.contains(layer.weight.detach())
        assert not torch.equal(layer.weight, before)


@feature
def test_sparse_and_matrix_optimizers(case: Case) -> None:
    """`Muon`, which takes matrices alone, where what is stored is one; `SparseAdam` says what it needs."""
    layer = case.layer()
    if case.stored(layer).dim() == 2:
        optimizer: Any = torch.optim.Muon([case.stored(layer)])
        layer(case.inputs()).sum().backward()
        optimizer.step()
    else:
        with pytest.raises(ValueError, match="2D"):
            torch.optim.Muon([case.stored(layer)])
    layer(case.inputs()).sum().backward()
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        torch.optim.SparseAdam(list(layer.parameters())).step()  # type: ignore[no-untyped-call]


@masked_only
def test_moving_masks(case: Case) -> None:
    """`remask` in the middle of training, with an optimizer, compiled or not"""
    torch.compiler.reset()
    layer = case.layer()
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    kept = layer.parametrizations.weight[0].mask
    flipped = kept.flip(*range(kept.dim()))
    for mask in (flipped, torch.ones_like(kept), kept):  # the same number at first and last
        compiled(case.inputs()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        remask(layer, {"weight": mask}, optimizer=optimizer)
        assert torch.equal(layer.parametrizations.weight[0].mask, mask)
        torch.testing.assert_close(compiled(case.inputs()), case.dense(layer)(case.inputs()))
        require_equal(case, layer, layer)


@feature
def test_dense_gradient(case: Case) -> None:
    """`dense_gradients`: the gradient by the whole weight, for one pass"""
    layer = case.layer()
    plain = case.dense(layer)
    plain(case.inputs()).square().sum().backward()
    with dense_gradients(layer, "weight") as gradients:
        layer(case.inputs()).square().sum().backward()
    torch.testing.assert_close(gradients["weight"][:], plain.weight.grad)


@feature
def test_gradient_tools(case: Case) -> None:
    """`clip_grad_norm_`, `parameters_to_vector`, and gradient accumulation."""
    layer = case.layer()
    layer(case.inputs()).sum().backward()
    once = case.stored(layer).grad
    assert once is not None
    once = once.clone()
    layer(case.inputs()).sum().backward()
    torch.testing.assert_close(case.stored(layer).grad, 2 * once)
    nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
    total = torch.stack([parameter.grad.norm() for parameter in layer.parameters()]).norm()
    torch.testing.assert_close(total, torch.tensor(0.1), rtol=1e-4, atol=0)
    twin = case.layer(1)
    vector_to_parameters(parameters_to_vector(layer.parameters()), twin.parameters())
    torch.testing.assert_close(twin(case.inputs()), layer(case.inputs()))


@feature
def test_checkpoint_files(case: Case, tmp_path: Path) -> None:
    """`torch.save` with `weights_only=True`, and safetensors; plain and constrained."""
    layer = case.layer()
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    for state in (torch.load(tmp_path / "layer.pt", weights_only=True), load_file(tmp_path / "layer.safetensors")):
        other = case.layer(1)
        other.load_state_dict(state)
        torch.testing.assert_close(other(case.inputs()), layer(case.inputs()))
    plain = case.plain()
    plain.load_state_dict(plain_state_dict(layer))
    torch.testing.assert_close(plain(case.inputs()), layer(case.inputs()))


@feature
def test_loading_a_plain_checkpoint(case: Case) -> None:
    """A plain checkpoint loads into the constrained layer."""
    layer, other = case.layer(), case.layer(1)
    layer.load_state_dict(plain_state_dict(other))
    torch.testing.assert_close(layer(case.inputs()), other(case.inputs()))


@feature
def test_baked(case: Case) -> None:
    """After baking: pickling, `torch.jit.script`, `quantize_dynamic`."""
    layer = case.layer().eval()
    baked = bake(nn.Sequential(layer))
    torch.testing.assert_close(pickle.loads(pickle.dumps(baked))(case.inputs()), layer(case.inputs()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they announce their successors
        torch.testing.assert_close(torch.jit.script(baked)(case.inputs()), layer(case.inputs()))
        quantized = torch.ao.quantization.quantize_dynamic(baked, {nn.Linear})  # type: ignore[no-untyped-call]
    torch.testing.assert_close(quantized(case.inputs()), layer(case.inputs()), rtol=0.05, atol=0.05)


@feature
def test_counting_operations(case: Case) -> None:
    """`torch.utils.flop_counter`: a fused `Diagonal` counts as no matrix product, a sparse one as its entries."""
    layer = case.layer()
    if case.kind == "MaskedSparse":
        layer.parametrizations.weight[0].product = "csr"
    structured = {"Diagonal": 0, "Diagonal, NegExp": 0, "MaskedSparse": 2 * 3 * case.stored(layer).numel()}
    if case.way == "fused" and case.kind in structured:
        assert operations(case, layer) == structured[case.kind]
    else:
        assert operations(case, layer) == operations(case, case.plain())


def operations(case: Case, layer: Any) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        layer(case.inputs())
    return int(counter.get_total_flops())


@feature
def test_recording(case: Case) -> None:
    """`make_fx`, forward and backward, and `FakeTensorMode`."""
    layer, x = case.layer(), case.inputs()
    parameters = {name: tensor.detach().requires_grad_() for name, tensor in layer.named_parameters()}

    def step(parameters: dict[str, Tensor], x: Tensor) -> list[Tensor]:
        output = torch.func.functional_call(layer, parameters, x)
        return [output, *torch.autograd.grad(output.square().sum(), list(parameters.values()))]

    for got, expected in zip(make_fx(step)(parameters, x)(parameters, x), step(parameters, x), strict=True):
        torch.testing.assert_close(got, expected)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fake = step({name: mode.from_tensor(tensor) for name, tensor in parameters.items()}, mode.from_tensor(x))
    assert [tensor.shape for tensor in fake] == [tensor.shape for tensor in step(parameters, x)]


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@feature
def test_deterministic_algorithms(case: Case) -> None:
    """`torch.use_deterministic_algorithms(True)`: attaching, training, baking."""
    layer = case.layer()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        require_equal(case, layer, layer)
        layer(case.inputs()).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(bake(layer)(case.inputs()), layer(case.inputs()))


@feature
def test_threads(case: Case) -> None:
    """Two threads that use one model."""
    layer, outputs, rounds = case.layer(), [], 50
    expected = layer(case.inputs())

    def work() -> None:
        for _ in range(rounds):
            outputs.append(layer(case.inputs()))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 2 * rounds
    for output in outputs:
        torch.testing.assert_close(output, expected)


@pytest.fixture(scope="module")
def on_two_ranks() -> str:
    """What two processes say: a line for each case that trains under DDP, or under FSDP2, as it does alone."""
    worker = Path(__file__).with_name("worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(worker)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@feature
def test_ddp(case: Case, on_two_ranks: str) -> None:
    """`DistributedDataParallel`, two processes."""
    assert f"ddp {case}\n" in on_two_ranks


@feature
def test_fsdp2(case: Case, on_two_ranks: str) -> None:
    """FSDP2 (`fully_shard`), two processes."""
    assert f"fsdp2 {case}\n" in on_two_ranks


def test_every_limit_is_of_a_feature_and_a_way() -> None:
    assert all(f"test_{name}" in globals() for name in LIMITS)
    assert all(set(limit.ways) <= set(WAYS) for limit in LIMITS.values())
