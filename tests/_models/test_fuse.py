"""Fused layers beside others: classes, copies, removal, second tensors, compile, digits, memory, wrong input."""

from __future__ import annotations

import copy
import subprocess
import sys
from abc import ABC
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Parametrization, ZeroDiagonal, fuse, masks, path
from parametrizations import replaced_diagonal as strips
from parametrizations.neg_exp_diagonal import _diagonal
from tests.layers import constrained

PRODUCTS: dict[str, Callable[[], Parametrization]] = {
    "Diagonal": lambda: Diagonal(product="structured"),
    "ZeroDiagonal": lambda: ZeroDiagonal(product="structured"),
    "NegExpDiagonal": lambda: NegExpDiagonal(product="structured"),
    "MaskedSparse": lambda: MaskedSparse(masks.random(0.3), product="structured"),
}
every = pytest.mark.parametrize("make", PRODUCTS.values(), ids=PRODUCTS)
of_the_compiler = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated",
    "ignore:The .grad attribute of a Tensor",
    "ignore:`torch._prims_common.check` is deprecated",
)
INPUTS = torch.linspace(-1, 1, 12).view(2, 6)


def fused(make: Callable[[], nn.Module], columns: int = 6, rows: int = 4) -> Any:
    return fuse(register_parametrization(nn.Linear(columns, rows), "weight", make()))


def dense_output(layer: Any, inputs: Tensor = INPUTS) -> Tensor:
    return F.linear(inputs, layer.weight, layer.bias)


@every
def test_a_fused_layer_multiplies_through_its_parametrization(
    make: Callable[[], Parametrization], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = fused(make)
    expected = dense_output(layer)
    monkeypatch.setattr(type(layer.parametrizations.weight[0]), "forward", None)  # nobody builds the weight
    torch.testing.assert_close(layer(INPUTS), expected)


def test_layers_of_a_kind_share_one_class_and_others_do_not() -> None:
    one, other, biased = fused(Diagonal), fused(ZeroDiagonal), fused(Diagonal)
    register_parametrization(biased, "bias", nn.Identity())
    assert type(one) is type(other)
    assert type(one).__bases__ == (nn.Linear,)
    assert type(one).__module__ == nn.Linear.__module__


def test_fusing_twice_changes_nothing_and_plain_layers_stay() -> None:
    model = nn.Sequential(fused(Diagonal), nn.Linear(4, 4), nn.ReLU())
    before = [type(module) for module in model]
    fuse(fuse(model))
    assert [type(module) for module in model] == before
    assert type(model[1]) is nn.Linear


@every
def test_removing_pytorchs_way_leaves_every_other_layer_whole(make: Callable[[], Parametrization]) -> None:
    layer, neighbour = fused(make), fused(make)
    twin = copy.deepcopy(layer)
    expected = [dense_output(one).detach() for one in (layer, neighbour, twin)]
    remove_parametrizations(twin, "weight")
    assert type(twin) is nn.Linear
    assert not hasattr(twin, "parametrizations")
    assert type(twin.weight) is nn.Parameter
    for one, output in zip((layer, neighbour, twin), expected, strict=True):
        torch.testing.assert_close(one(INPUTS), output)
        torch.testing.assert_close(dense_output(one), output)


@every
def test_a_second_parametrization_on_the_weight_makes_the_layer_dense(make: Callable[[], Parametrization]) -> None:
    layer, neighbour = fused(make), fused(make)
    register_parametrization(layer, "weight", NegExpDiagonal())
    assert path(layer).why == "the weight has more than one parametrization"
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    torch.testing.assert_close(neighbour(INPUTS), dense_output(neighbour))
    assert bool((layer.weight.diagonal() < 0).all())


class Doubled(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@every
def test_a_parametrization_on_the_bias_joins_and_leaves(make: Callable[[], Parametrization]) -> None:
    layer, neighbour = fused(make), fused(make)
    bias = layer.bias.detach().clone()
    register_parametrization(layer, "bias", Doubled())
    assert torch.equal(layer.bias, 2 * bias)
    assert type(neighbour.bias) is nn.Parameter
    for one in (layer, neighbour, fuse(layer)):
        torch.testing.assert_close(one(INPUTS), dense_output(one))
    remove_parametrizations(layer, "weight")
    assert type(layer.weight) is nn.Parameter
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear
    assert torch.equal(layer.bias, 2 * bias)
    torch.testing.assert_close(neighbour(INPUTS), dense_output(neighbour))


def test_a_bias_that_was_parametrized_first_is_kept() -> None:
    layer: Any = register_parametrization(nn.Linear(6, 4), "bias", Doubled())
    layer = fuse(register_parametrization(layer, "weight", Diagonal()))
    remove_parametrizations(layer, "bias")
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    assert path(layer).name == "element-wise"


def test_assigning_goes_through_the_parametrization() -> None:
    layer = fused(ZeroDiagonal)
    layer.weight = torch.ones(4, 6).fill_diagonal_(0)
    assert torch.equal(layer.weight, torch.ones(4, 6).fill_diagonal_(0))
    with pytest.raises(ValueError, match="needs every entry on the main diagonal to be 0"):
        layer.weight = torch.ones(4, 6)


def test_after_removal_beside_another_tensor_plain_attributes_still_work() -> None:
    layer = fused(ZeroDiagonal)
    register_parametrization(layer, "bias", Doubled())
    remove_parametrizations(layer, "weight")
    prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-untyped-call]  # moves the tensor to a plain attribute
    assert int((layer.weight == 0).sum()) >= 12
    assert not hasattr(layer, "absent")


class Abstract(nn.Linear, ABC):
    pass


class Own(nn.Linear):
    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 100


class Slotted(nn.Linear):
    __slots__ = ("note",)


def test_an_abc_layer_works() -> None:
    layer: Any = fuse(register_parametrization(Abstract(6, 4), "weight", Diagonal()))
    assert path(layer).name == "element-wise"
    torch.testing.assert_close(layer(INPUTS), dense_output(layer))
    remove_parametrizations(layer, "weight")
    assert type(layer) is Abstract


def test_a_layer_with_a_forward_of_its_own_keeps_it() -> None:
    layer: Any = fuse(register_parametrization(Own(6, 4), "weight", Diagonal()))
    torch.testing.assert_close(layer(INPUTS), dense_output(layer) + 100)
    assert path(layer).why == "the layer is not fused"


def test_a_deep_copy_keeps_slots_and_is_answered_with_its_own_weight_while_cached() -> None:
    layer: Any = Slotted(6, 4)
    layer.note = ["kept"]
    fuse(register_parametrization(layer, "weight", ZeroDiagonal()))
    with parametrize.cached():
        weight = layer.weight
        assert layer.weight is weight
        twin = copy.deepcopy(layer)
        with torch.no_grad():
            twin.parametrizations.weight.original.mul_(2)
        assert torch.equal(twin.weight, 2 * weight)
    assert twin.note == ["kept"]
    assert twin.note is not layer.note


def test_pickling_is_refused_with_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"cannot be pickled.* Save its state_dict\(\), or take"):
        torch.save(fused(Diagonal), "/dev/null")


def test_models_of_fused_layers_stack() -> None:
    models = [nn.Sequential(fused(Diagonal), nn.Linear(4, 2)) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        output: Tensor = torch.func.functional_call(models[0], (parameters, buffers), (INPUTS,))
        return output

    together = torch.func.vmap(call)(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([model(INPUTS) for model in models]))


@every
def test_fx_sees_a_leaf(make: Callable[[], Parametrization]) -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(fused(make), nn.ReLU())).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "call_module", "output"]


def test_a_class_that_something_else_changed_is_refused_before_any_change() -> None:
    first, second = (register_parametrization(nn.Linear(4, 4), "weight", Diagonal()) for _ in range(2))
    second.__class__ = type("Sharded", (type(second),), {})
    before = type(first)
    with pytest.raises(ValueError, match=r"register_parametrization gives them. Got Sharded. Fuse before fully_shard"):
        fuse(nn.Sequential(first, second))
    assert type(first) is before


class Unconstrained(Parametrization):
    """Every matrix, with a product of its own."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()

    @override
    def excess(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)

    @override
    def project(self, weight: Tensor) -> Tensor:
        return weight

    @override
    def linear(self, input: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, x, bias)


@pytest.mark.parametrize(
    ("layer", "name", "why"),
    [
        (nn.Linear(3, 3), "dense", "the weight has no parametrization"),
        (register_parametrization(nn.Linear(3, 3), "weight", Diagonal()), "dense", "the layer is not fused"),
        (fused(Diagonal), "element-wise", "one multiply-add for each output"),
        (fused(lambda: Diagonal(product="dense")), "dense", "asked for with product='dense'"),
        (fused(ZeroDiagonal), "dense", "the matrix is too small for anything else to be faster"),
        (fused(ZeroDiagonal, 1024, 1024), "strips", "a matrix of up to 1024 x 1024"),
        (fused(ZeroDiagonal, 1024, 1024).half(), "dense", "only float32 and float64 products .* loses no digits"),
        (fused(lambda: MaskedSparse(masks.random(0.01)), 1024, 1024), "CSR", "the cost follows the kept entries"),
        (fused(lambda: MaskedSparse(masks.random(0.9)), 1024, 1024), "dense", "so many entries are kept"),
        (fused(Unconstrained), "own", "the parametrization has a product of its own"),
        (fused(Doubled), "dense", "the parametrization is not one of this library's"),
    ],
)
def test_a_layer_says_its_path_and_why(layer: nn.Module, name: str, why: str) -> None:
    taken = path(layer)
    assert taken.name == name
    assert taken.why.startswith(why) or why.split(" .* ")[1] in taken.why


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(7, 7), (9, 5), (5, 9), (4, 1), (1, 4)])
def test_strips_of_every_size_are_the_dense_product(
    shape: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "BLOCK", block)
    leaves = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((3, shape[1]), shape, shape[:1])]

    def product(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        return strips.replaced_diagonal_linear(input, x, bias, _diagonal)

    expected = F.linear(leaves[0], NegExpDiagonal()(leaves[1]), leaves[2])
    torch.testing.assert_close(product(*leaves), expected)
    torch.autograd.gradcheck(product, leaves, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(product, leaves, check_batched_grad=True)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def errors(function: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor, exact: list[Tensor]) -> list[float]:
    """The mean error of the output and of each gradient, over the mean of the exact ones."""
    taken = [leaf.clone().requires_grad_() for leaf in leaves]
    output = function(*taken)
    got = [output.detach(), *torch.autograd.grad(output, taken, grad)]
    return [
        ((one.double() - other).abs().mean() / other.abs().mean()).item() for one, other in zip(got, exact, strict=True)
    ]


@pytest.mark.parametrize("scale", ["usual", "stored from -80 to 80", "badly scaled inputs"])
@pytest.mark.parametrize("dtype", DTYPES)
@every
def test_no_digits_are_lost(make: Callable[[], Parametrization], dtype: torch.dtype, scale: str) -> None:
    """A fused product has at most 1.5 times the dense path's own mean error against float64."""
    layer = constrained(make(), nn.Linear(640, 640).weight.detach())
    inputs, bias, grad = torch.randn(64, 640), torch.randn(640), torch.randn(64, 640)
    x = layer.parametrizations.weight.original.detach()
    if scale == "stored from -80 to 80" and x.dim() == 2:
        x = x.diagonal_scatter(torch.linspace(-80, 80 if dtype is not torch.float16 else 8, 640))
    if scale == "badly scaled inputs":
        inputs = inputs * torch.logspace(-3, 3, 640)
    leaves = [tensor.to(dtype) for tensor in (inputs, x, bias)]
    parametrization = layer.parametrizations.weight[0]
    if dtype is torch.float64:  # nothing wider is there to compare with: equal to the last few digits
        one, other = parametrization.linear(*leaves), F.linear(leaves[0], parametrization(leaves[1]), leaves[2])
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * other.abs().max().item())
        return

    def dense(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        return F.linear(input, parametrization(x), bias)

    def exact_product(input: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        # The map on the diagonal depends on the dtype; its rounded values are what both products start from.
        return F.linear(input, x, bias)

    weight = parametrization(leaves[1]).detach()
    wide = [tensor.double().requires_grad_() for tensor in (leaves[0], weight, leaves[2])]
    output = exact_product(*wide)
    of_input, of_weight, of_bias = torch.autograd.grad(output, wide, grad.to(dtype).double())
    (of_x,) = torch.autograd.grad(parametrization(leaves[1].requires_grad_()), leaves[1], of_weight.to(dtype))
    exact = [output.detach(), of_input, of_x.double(), of_bias]
    got = errors(parametrization.linear, leaves, grad.to(dtype), exact)
    own = errors(dense, leaves, grad.to(dtype), exact)
    floor = torch.finfo(dtype).eps / 8  # both round to the last digit
    for name, fused_error, dense_error in zip(("output", "input", "x", "bias"), got, own, strict=True):
        assert fused_error <= 1.5 * max(dense_error, floor), f"{name}: {fused_error:.2e} against {dense_error:.2e}"


@every
def test_wrong_inputs_say_what_a_layer_needs(make: Callable[[], Parametrization]) -> None:
    layer = fused(make)
    with pytest.raises(
        RuntimeError, match=r"A layer with 6 inputs needs an input of shape \(\*, 6\). Got shape \(2, 1\)"
    ):
        layer(torch.ones(2, 1))
    with pytest.raises(RuntimeError, match=r"its own dtype and device, torch.float32 on cpu. Got torch.float64 on cpu"):
        layer(INPUTS.double())
    with pytest.raises(RuntimeError, match=r"torch.float32 on cpu. Got torch.float32 on meta"):
        layer(INPUTS.to("meta"))


@every
@pytest.mark.parametrize("inputs", [torch.randn(6, 5).mT, torch.randn(2, 6, 3).mT, torch.randn(6).expand(3, 6)])
def test_the_output_is_contiguous_as_that_of_a_layer(make: Callable[[], Parametrization], inputs: Tensor) -> None:
    for rows in (4, 6, 9):
        layer = fused(make, rows=rows)
        output = layer(inputs)
        assert output.stride() == F.linear(inputs, torch.ones(rows, 6)).stride()
        torch.testing.assert_close(output, dense_output(layer, inputs))


@every
@of_the_compiler
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 6), (2, 3, 6)])
def test_the_output_may_be_changed_in_place(
    make: Callable[[], Parametrization],
    bias: bool,
    shape: tuple[int, ...],
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(strips, "COPIED", 0)
    monkeypatch.setattr(strips, "BLOCK", 2)
    layer: Any = fuse(register_parametrization(nn.Linear(6, 4, bias=bias), "weight", make()))
    inputs = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()
    leaves = [inputs, *layer.parameters()]
    model: Any = nn.Sequential(layer, nn.ReLU(inplace=True))
    output = torch.compile(model, backend="aot_eager", fullgraph=True)(inputs) if compiled else model(inputs)  # type: ignore[no-untyped-call]
    got = torch.autograd.grad(output.sum(), leaves)
    expected = torch.autograd.grad(dense_output(layer, inputs).relu().sum(), leaves)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@every
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_output_is_no_view_of_which_fsdp2_would_lose_sight(
    make: Callable[[], Parametrization], batch: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, "COPIED", 0)
    layer: Any = fuse(register_parametrization(nn.Linear(6, 4, bias=bias), "weight", make()))
    assert not layer(torch.ones(batch, 6))._is_view()


@pytest.mark.parametrize("kind", ["ZeroDiagonal", "NegExpDiagonal"])
def test_strips_count_as_the_dense_product(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "COPIED", 0)
    monkeypatch.setattr(strips, "BLOCK", 2)
    layer, inputs = fused(PRODUCTS[kind]), INPUTS.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        layer(inputs).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * 6 * 4


def test_a_hidden_entry_ignores_an_infinite_input() -> None:
    layer = fused(lambda: Diagonal(product="structured"))
    inputs = INPUTS.clone()
    inputs[0, 5] = torch.inf
    assert bool(layer(inputs).isfinite().all())


class Counter:
    """A compiler that compiles nothing and counts the graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:  # noqa: ARG002
        self.graphs += 1
        return graph.forward


class Block(nn.Module):
    def __init__(self, make: Callable[[], nn.Module] | None) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        if make is not None:
            fuse(register_parametrization(self.linear, "weight", make()))

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = input + self.linear(input).relu()
        return output


def graphs_of_twelve_blocks(make: Callable[[], nn.Module] | None, batches: tuple[int, ...]) -> int:
    torch.compiler.reset()
    counter, blocks = Counter(), [Block(make) for _ in range(12)]
    for block in blocks:
        block.compile(backend=counter, fullgraph=True)
    for batch in batches:
        output = torch.randn(batch, 64)
        for block in blocks:
            output = block(output)
        output.sum().backward()  # type: ignore[no-untyped-call]
    return counter.graphs


# The compiler warns about itself: it instantiates autograd functions, looks at gradients of its inputs, and
# calls what torch has deprecated.


@of_the_compiler
@every
def test_twelve_blocks_make_no_more_graphs_than_plain_ones(make: Callable[[], Parametrization]) -> None:
    assert graphs_of_twelve_blocks(make, (4,)) == graphs_of_twelve_blocks(None, (4,)) == 2
    assert graphs_of_twelve_blocks(make, (2, 3, 4)) <= graphs_of_twelve_blocks(None, (2, 3, 4))


@of_the_compiler
@every
def test_the_default_compiler_gives_the_same(make: Callable[[], Parametrization]) -> None:
    torch.compiler.reset()
    layer = fused(make)
    compiled: Callable[[Tensor], Tensor] = torch.compile(layer, fullgraph=True)
    for batch in (2, 3, 5):
        inputs = torch.randn(batch, 6, requires_grad=True)
        outcome = [
            compiled(inputs),
            *torch.autograd.grad(compiled(inputs).square().sum(), [inputs, *layer.parameters()]),
        ]
        output = dense_output(layer, inputs)
        expected = [output, *torch.autograd.grad(output.square().sum(), [inputs, *layer.parameters()])]
        for one, other in zip(outcome, expected, strict=True):
            torch.testing.assert_close(one, other)


MILLION = """
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from parametrizations import Diagonal, fuse
def peak():  # not ru_maxrss, which a new process takes over from the one that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
n = 2**20
torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)).sum().backward()
torch.optim.Adam([nn.Parameter(torch.ones(1))])
before = peak()
with torch.device("meta"):
    layer = fuse(register_parametrization(nn.Linear(n, n), "weight", Diagonal()))
layer.to_empty(device="cpu")
with torch.no_grad():
    layer.parametrizations.weight.original.normal_()
    layer.bias.zero_()
optimizer = torch.optim.Adam(layer.parameters())
inputs = torch.ones(8, n)
layer(inputs).square().mean().backward()
optimizer.step()
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_a_million_features_take_an_adam_step_below_400_mb() -> None:
    done = subprocess.run([sys.executable, "-c", MILLION], capture_output=True, text=True, check=True, timeout=120)
    assert 8 * 4 < float(done.stdout) < 400  # the inputs alone take 32 MB


def test_the_product_is_fixed_when_created() -> None:
    """What a mask is arranged as follows from it, so that a later change would be half of one."""
    layer = fused(lambda: MaskedSparse(masks.random(0.3)))
    with pytest.raises(AttributeError, match="product"):
        layer.parametrizations.weight[0].product = "structured"
