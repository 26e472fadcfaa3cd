"""`Signed` and the rules of `signs`: weights with given signs."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils.parametrize import transfer_parametrizations_and_params
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    Parametrization,
    Signed,
    ZeroDiagonal,
    bake,
    explain,
    masks,
    plain_state_dict,
    register,
    signs,
    summary,
)
from parametrizations.parametrization import COMPLEX, FLOATING
from tests.layers import all_finite, of_the_compiler, some_finite

MAPS: list[Any] = ["exp", "softplus"]
BOUND = {torch.float16: 8.0, torch.bfloat16: 80.0, torch.float32: 80.0, torch.float64: 700.0}
COLUMNS = torch.tensor([1, -1, 0, 1])
SIGNS: dict[str, Callable[[], Any]] = {
    "positive": lambda: 1,
    "negative": lambda: -1,
    "columns": lambda: COLUMNS,
    "list": lambda: COLUMNS.tolist(),
    "as_is": signs.as_is,
    "dale": lambda: signs.dale(0.5),
    "function": lambda: lambda weight: -weight.real.sign(),
}
every_map = pytest.mark.parametrize("map", MAPS)
every_sign = pytest.mark.parametrize("make", SIGNS.values(), ids=SIGNS)
every_size = pytest.mark.parametrize("rows", [3, 2**14], ids=["small", "large"])
"""Matrices of four columns: large ones take another path through autograd."""


class Weight(nn.Module):
    """A module with a weight of any shape."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    @override
    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight


def attached(weight: Tensor, *steps: Any) -> Any:
    return register(Weight(weight), {"weight": list(steps)})


def linear(*steps: Any, columns: int = 4, rows: int = 4) -> Any:
    return register(nn.Linear(columns, rows), {"weight": list(steps)})


def last(layer: Any) -> Any:
    return layer.parametrizations.weight[-1]


def stored(layer: Any) -> nn.Parameter:
    x: nn.Parameter = layer.parametrizations.weight.original
    return x


def store(layer: Any, x: Tensor) -> None:
    with torch.no_grad():
        stored(layer).copy_(x)


def require_signs(weight: Tensor, sign: Tensor) -> None:
    """Every entry with a sign is on its side, and a normal number."""
    bound = (sign != 0).expand(weight.shape)
    assert bool(weight.isfinite().all())
    assert bool((weight.real * sign >= torch.finfo(weight.dtype).tiny)[bound].all())


def numbers(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a 16-bit dtype, extreme and random ones of others; complex ones from pairs of them."""
    if dtype.is_complex:
        real = numbers(dtype.to_real())
        return torch.complex(real, real.flip(0))
    if dtype.itemsize == 2:
        return all_finite(dtype)
    ends = torch.finfo(dtype)
    extremes = torch.tensor([0.0, -0.0, ends.min, ends.max, ends.tiny, -ends.tiny], dtype=dtype)
    return torch.cat([some_finite(dtype, 10**5)[::3], extremes])


@pytest.mark.parametrize("dtype", FLOATING + COMPLEX)
@every_map
@every_sign
def test_every_finite_stored_value_gives_a_strict_sign(make: Callable[[], Any], map: Any, dtype: torch.dtype) -> None:
    x = numbers(dtype)[:, None].repeat(1, 4)
    assert len(x) > 60_000
    layer = attached(torch.randn(x.shape, dtype=dtype), Signed(make(), map=map))
    store(layer, x)
    sign, weight = last(layer).signs, layer.weight
    require_signs(weight.detach(), sign)
    free = (sign == 0).expand(x.shape)
    assert torch.equal(weight[free], x[free])
    weight.real.sum().backward()
    gradient = stored(layer).grad
    assert gradient is not None
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("dtype", FLOATING)
@every_map
def test_registering_moves_an_entry_with_its_sign_by_rounding_alone(map: Any, dtype: torch.dtype) -> None:
    largest = Signed(1, map=map)(torch.tensor(torch.finfo(dtype).max, dtype=dtype))
    values = numbers(dtype)
    values = values[(values.abs() >= torch.finfo(dtype).tiny) & (values.abs() <= largest)]
    assert len(values) > 50_000
    weight = attached(values, Signed(signs.as_is(), map=map)).weight.detach()
    moved = weight.double() / values.double() - 1
    allowed = (1 + values.double().abs().log().abs()) * torch.finfo(dtype).eps
    worst = (moved.abs() / allowed).max().item()
    assert worst <= 1, f"{worst:.3f} of the allowed relative error"


@pytest.mark.parametrize("dtype", COMPLEX)
@every_map
def test_only_the_real_part_of_a_complex_number_is_mapped(map: Any, dtype: torch.dtype) -> None:
    values = torch.randn(100, dtype=dtype)
    weight = attached(values, Signed(signs.as_is(), map=map)).weight.detach()
    assert torch.equal(weight.imag, values.imag)
    torch.testing.assert_close(weight.real, values.real)


OPTIMIZERS = [
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in ("Optimizer", "SparseAdam")
]


@pytest.mark.parametrize("name", OPTIMIZERS)
@every_map
def test_signs_survive_every_optimizer(name: str, map: Any) -> None:
    layer = register(nn.Linear(4, 4, bias=False), {"weight": Signed(COLUMNS, map=map)})
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=1.0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (layer(torch.eye(4)) + 5 * COLUMNS).square().sum()  # pulls each entry to the other side
        loss.backward()
        return float(loss.detach())

    before = layer.weight.detach()
    for _ in range(20):
        optimizer.step(closure)
        require_signs(layer.weight.detach(), COLUMNS)
        assert last(layer).contains(layer.weight)
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("dtype", FLOATING)
@every_map
def test_registering_reflects_wrong_signs(map: Any, dtype: torch.dtype) -> None:
    size, sign = torch.tensor([2.0, 0.5, 1e-4, 1e-5, 0.0], dtype=dtype), torch.tensor([[1], [-1], [0], [-1]])
    weight = attached(torch.stack([-size, size, size, -size]), Signed(sign, map=map)).weight
    reflected, kept = size.clamp(min=1e-4), attached(size[:4], Signed(1, map=map)).weight
    rounding = 11 * torch.finfo(dtype).eps
    torch.testing.assert_close(weight[0], reflected, rtol=rounding, atol=0)
    torch.testing.assert_close(weight[1], -reflected, rtol=rounding, atol=0)
    assert torch.equal(weight[2], size)
    assert torch.equal(weight[3, :4], -kept)


def test_a_wrong_sign_of_a_complex_number_is_reflected_at_the_imaginary_axis() -> None:
    layer = attached(torch.tensor([3 + 4j, 0 + 1j, -2 - 1j]), Signed(-1))
    torch.testing.assert_close(layer.weight, torch.tensor([-3 + 4j, -1e-4 + 1j, -2 - 1j]))


def test_assigning_a_wrong_sign_or_a_zero_raises() -> None:
    layer = linear(Signed(1))
    before = layer.weight.detach()
    for value in (-1.0, 0.0, -0.0, 1e-45, 3e38):
        weight = torch.ones(4, 4)
        weight[1, 2] = value
        with pytest.raises(ValueError, match=r"every entry to have its sign.* 1 of 16 entries.* row 1, column 2"):
            layer.weight = weight
        assert torch.equal(layer.weight, before)
        last(layer).on_infeasible = "project"
        twin = copy.deepcopy(layer)
        twin.weight = weight
        require_signs(twin.weight.detach(), torch.tensor(1))
        last(layer).on_infeasible = "raise"


def test_a_plain_checkpoint_with_zeros_loads_by_projection_alone() -> None:
    plain = nn.Linear(4, 4)
    plain.weight.data.relu_()
    layer = linear(Signed(1))
    before = layer.weight.detach()
    with pytest.raises(RuntimeError, match=r"plain 'weight': Signed needs every entry to have its sign.*stays as it"):
        layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, before)
    projecting = linear(Signed(1, on_infeasible="project"))
    projecting.load_state_dict(plain.state_dict())
    torch.testing.assert_close(projecting.weight, plain.weight.clamp(min=1e-4))


def formula(x: Tensor, map: str, sign: Tensor) -> Tensor:
    size = x.exp() if map == "exp" else x.exp().log1p()
    return torch.where(sign == 0, x, sign * size)


unpack_dual: Any = forward_ad.unpack_dual
make_dual: Any = forward_ad.make_dual
Derivative = Callable[[Callable[[Tensor], Tensor], Tensor], list[Tensor]]


def by_backward(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    return list(torch.autograd.grad(weight(x).square().sum(), x))


def through_an_intermediate(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    middle = leaf.sin()
    return list(torch.autograd.grad(weight(middle).square().sum(), [leaf, middle]))


def twice_and_thrice(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x, found = x.clone().requires_grad_(), []
    value = weight(x).square().sum()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(gradient)
        value = gradient.square().sum()
    return found


def with_a_batch_of_gradients(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    return list(torch.autograd.grad(weight(x), x, torch.stack([x.cos(), x.sin()]), is_grads_batched=True))


def by_dual_numbers(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    with forward_ad.dual_level():
        value, tangent = unpack_dual(weight(make_dual(x, x.cos())))
        return [value, tangent]


def by_dual_numbers_of_a_gradient(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    with forward_ad.dual_level():
        dual = make_dual(x.clone().requires_grad_(), x.cos())
        (gradient,) = torch.autograd.grad(weight(dual).square().sum(), dual)
        return list(unpack_dual(gradient))


def by_grad(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    return [torch.func.grad(lambda x: weight(x).square().sum())(x)]


def by_jvp(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    return list(torch.func.jvp(weight, (x,), (x.cos(),)))


def by_vmap(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    return [torch.func.vmap(weight)(torch.stack([x, -x]))]


def by_hessian(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Along two directions."""
    at = torch.tensor([0.5, 0.25], dtype=x.dtype)
    return [torch.func.hessian(lambda along: weight(along[0] * x + along[1] * x.cos()).sum())(at)]


def without_gradients(weight: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    plain = weight(x)
    assert not plain.requires_grad
    x = x.clone().requires_grad_()
    with torch.no_grad():
        plain_too = weight(x)
    with torch.inference_mode():
        inferred = weight(x)
    assert inferred.is_inference()
    assert not plain_too.requires_grad
    return [plain, plain_too, inferred]


DERIVATIVES: dict[str, Derivative] = {
    function.__name__: function
    for function in (
        by_backward,
        through_an_intermediate,
        twice_and_thrice,
        with_a_batch_of_gradients,
        by_dual_numbers,
        by_dual_numbers_of_a_gradient,
        by_grad,
        by_jvp,
        by_vmap,
        by_hessian,
        without_gradients,
    )
}


@pytest.mark.parametrize("derive", DERIVATIVES.values(), ids=DERIVATIVES)
@pytest.mark.parametrize("sign", [1, -1, COLUMNS], ids=["positive", "negative", "columns"])
@every_map
@every_size
def test_values_and_derivatives_are_those_of_the_formula(rows: int, map: Any, sign: Any, derive: Derivative) -> None:
    x = torch.randn(rows, 4, dtype=torch.float64)
    found = derive(Signed(sign, map=map), x)
    expected = derive(lambda x: formula(x, map, torch.as_tensor(sign)), x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATING)
@every_size
def test_beyond_the_overflow_bound_exp_grows_as_a_logarithm(rows: int, dtype: torch.dtype) -> None:
    c = BOUND[dtype]
    x = torch.tensor([c - 0.5, c, c + 1, 4 * c], dtype=dtype).repeat(rows, 1).requires_grad_()
    weight = Signed(-1)(x)
    (gradient,) = torch.autograd.grad(weight[0].sum(), x)
    beyond = [max(at - c, 0.0) for at in x[0].tolist()]
    values = [-math.exp(min(at, c)) * (1 + math.log1p(over)) for at, over in zip(x[0].tolist(), beyond, strict=True)]
    slopes = [-math.exp(min(at, c)) / (1 + over) for at, over in zip(x[0].tolist(), beyond, strict=True)]
    rounding = 8 * torch.finfo(dtype).eps
    assert weight[-1].tolist() == pytest.approx(values, rel=rounding)
    assert gradient[0].tolist() == pytest.approx(slopes, rel=rounding)


@every_size
def test_softplus_grows_as_x(rows: int) -> None:
    x = torch.tensor([50.0, 1e4, 1e30, 3e38]).repeat(rows, 1).requires_grad_()
    weight = Signed(COLUMNS, map="softplus")(x)
    assert torch.equal(weight, torch.where(COLUMNS == 0, x, COLUMNS * x))
    (gradient,) = torch.autograd.grad(weight[0].sum(), x)
    assert gradient[0].tolist() == pytest.approx([1, -1, 1, 1])


def test_a_weight_beyond_the_range_of_exp_is_clamped_on_registering_alone() -> None:
    layer = attached(torch.full((2,), 3e38), Signed(1))
    largest = Signed(1)(torch.tensor(3.4028234e38)).item()
    torch.testing.assert_close(layer.weight, torch.full((2,), largest), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="in the range of the map"):
        layer.weight = torch.full((2,), 3e38)


CHAINS: dict[str, Callable[[], list[Parametrization]]] = {
    "csr": lambda: [MaskedSparse(masks.magnitude(density=0.4), product="csr")],
    "strips": lambda: [MaskedSparse(masks.lower_triangular(1), product="strips")],
    "elementwise": lambda: [Diagonal()],
    "zero-diagonal": lambda: [ZeroDiagonal()],
    "csr-zero": lambda: [MaskedSparse(masks.magnitude(density=0.4), product="csr"), ZeroDiagonal()],
    "elementwise-blocks": lambda: [Diagonal(blocks=2)],
}
every_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


@every_chain
@every_sign
@every_map
def test_earlier_zeros_stay_and_other_entries_have_their_signs(
    map: Any, make: Callable[[], Any], chain: Callable[[], list[Parametrization]]
) -> None:
    torch.manual_seed(3)
    alone = linear(*chain(), rows=8)
    torch.manual_seed(3)
    layer = linear(*chain(), Signed(make(), map=map), rows=8)
    kept = alone.weight != 0
    assert stored(layer).shape == stored(alone).shape
    sign = torch.zeros(8, 4)
    for step in range(3):
        weight = layer.weight.detach()
        assert torch.equal(weight != 0, kept)
        sign = torch.where(kept, weight.sign(), 0) if step == 0 else sign
        free = (last(layer).signs == 0).expand(8, 4) if not last(layer).is_per_entry else ~kept
        assert torch.equal(weight.sign()[~free], sign[~free])
        assert last(layer).contains(weight)
        inputs = torch.randn(2, 4, requires_grad=True)
        output, dense = layer(inputs), F.linear(inputs, layer.weight, layer.bias)
        leaves = [inputs, *layer.parameters()]
        found = [output, *torch.autograd.grad(output.square().sum(), leaves)]
        expected = [dense, *torch.autograd.grad(dense.square().sum(), leaves)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        store(layer, 30 * torch.randn(stored(layer).shape))


def test_given_signs_are_those_of_the_kept_entries() -> None:
    given = torch.tensor([[1, -1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, -1], [-1, 1, -1, -1]])
    for sign in (given, given[0], given[:, :1]):
        for step in (MaskedSparse(masks.magnitude(density=0.5)), Diagonal(), ZeroDiagonal()):
            layer = linear(step, Signed(sign))
            kept = layer.weight != 0
            assert torch.equal(layer.weight.sign(), torch.where(kept, sign.expand(4, 4), 0))


@pytest.mark.parametrize("name", ["csr", "strips", "elementwise", "csr-zero", "elementwise-blocks"])
def test_the_product_is_that_of_the_mask(name: str) -> None:
    layer = linear(*CHAINS[name](), Signed(signs.as_is()), rows=8)
    assert explain(layer).product == name.partition("-")[0]
    assert explain(linear(Signed(1))).product == explain(linear(ZeroDiagonal(), Signed(1))).product == "dense"


def test_a_rule_may_return_one_number() -> None:
    for first in ([], [MaskedSparse(masks.lower_triangular())]):
        rules: list[Any] = [lambda _: -1, lambda _: 1]
        layer, other = (linear(*copy.deepcopy(first), Signed(rule)) for rule in rules)
        assert bool((layer.weight[:, 0] < 0).all())
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer.weight, other.weight)


def test_one_sign_is_kept_for_each_stored_entry() -> None:
    layer = linear(MaskedSparse(masks.magnitude(density=0.25)), Signed(signs.as_is()))
    assert last(layer).is_per_entry
    assert last(layer).signs.shape == stored(layer).shape == (4,)
    assert last(layer).signs.dtype is torch.int8
    assert not last(linear(Signed(signs.as_is()))).is_per_entry


@pytest.mark.parametrize("attach", ["at once", "later"])
def test_a_mask_may_be_registered_before(attach: str) -> None:
    layer: Any = nn.Linear(4, 4)
    steps: list[Any] = [MaskedSparse(masks.lower_triangular()), Signed(COLUMNS)]
    for rule in [steps] if attach == "at once" else [[step] for step in steps]:
        register(layer, {"weight": rule})
    assert stored(layer).shape == (10,)
    require_signs(layer.weight.detach(), COLUMNS * torch.ones(4, 4).tril())
    assert not layer.weight.triu(1).any()


OUTSIDE: dict[str, Callable[[Any], Parametrization]] = {
    "MaskedSparse": lambda option: MaskedSparse(masks.lower_triangular(-1), on_infeasible=option),
    "Diagonal": lambda option: Diagonal(on_infeasible=option),
    "ZeroDiagonal": lambda option: ZeroDiagonal(on_infeasible=option),
}


@pytest.mark.parametrize("sign", [lambda: 1, signs.as_is], ids=["positive", "as_is"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_an_earlier_constraint_checks_the_entries_that_it_drops(name: str, sign: Callable[[], Any]) -> None:
    for other in ("raise", "project"):
        layer = linear(OUTSIDE[name]("raise"), Signed(sign(), on_infeasible=other))
        before = layer.weight.detach()
        outside = before + (before == 0)
        with pytest.raises(ValueError, match=f"^{name} needs every entry"):
            layer.weight = outside
        with pytest.raises(RuntimeError, match=f"plain 'weight': {name} needs every entry"):
            layer.load_state_dict({"weight": outside, "bias": layer.bias})
        assert torch.equal(layer.weight, before)
        layer = linear(OUTSIDE[name]("project"), Signed(sign(), on_infeasible=other))
        before = layer.weight.detach()
        layer.weight = 2 * before + (before == 0)
        torch.testing.assert_close(layer.weight, 2 * before)


def test_a_signed_weight_takes_no_mask_afterwards() -> None:
    with pytest.raises(ValueError, match="MaskedSparse needs to be the first parametrization of its tensor"):
        linear(Signed(1), MaskedSparse(masks.lower_triangular()))
    with pytest.raises(ValueError, match=r"hold together. .* Signed, which needs every entry to have its sign"):
        linear(Signed(1), ZeroDiagonal())


STEPS: dict[str, Callable[[], list[Any]]] = {
    "alone": lambda: [Signed(COLUMNS)],
    "as_is": lambda: [Signed(signs.as_is(), map="softplus")],
    "masked": lambda: [MaskedSparse(masks.magnitude(density=0.5)), Signed(COLUMNS)],
    "masked-as_is": lambda: [MaskedSparse(masks.magnitude(density=0.5)), Signed(signs.as_is())],
    "masked-zero": lambda: [MaskedSparse(masks.magnitude(density=0.5)), ZeroDiagonal(), Signed(-1)],
}
all_steps = pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)


@all_steps
def test_a_deep_copy_is_independent(steps: Callable[[], list[Any]]) -> None:
    layer, other = linear(*steps()), linear(*steps())
    before = layer.weight.detach()
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.weight, before)
    twin.load_state_dict(other.state_dict())
    assert torch.equal(twin.weight, other.weight)
    assert torch.equal(layer.weight, before)
    assert type(bake(twin)) is nn.Linear


@all_steps
def test_a_layer_is_copied_after_a_transform(steps: Callable[[], list[Any]]) -> None:
    layer = linear(*steps())
    layer.load_state_dict(layer.state_dict())  # the first product after it is inside the transform
    values = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    torch.func.grad(lambda values: torch.func.functional_call(layer, values, torch.ones(2, 4)).sum())(values)
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)


@all_steps
@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_restores_the_signs_from_a_file(steps: Callable[[], list[Any]], assign: bool) -> None:
    saved, layer = linear(*steps()), linear(*steps())
    _ = layer.weight, layer(torch.ones(1, 4))
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    layer.load_state_dict(torch.load(file, weights_only=True), assign=assign)
    assert torch.equal(layer.weight, saved.weight)
    assert torch.equal(last(layer).signs, last(saved).signs)
    torch.testing.assert_close(layer(torch.eye(4)), saved(torch.eye(4)))


@all_steps
def test_a_plain_checkpoint_of_another_copy_loads(steps: Callable[[], list[Any]]) -> None:
    layer = linear(*steps())
    twin = copy.deepcopy(layer)
    store(twin, torch.randn(stored(twin).shape))
    layer.load_state_dict(plain_state_dict(twin))
    torch.testing.assert_close(layer.weight, twin.weight)


@all_steps
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_dtype_keeps_the_signs(steps: Callable[[], list[Any]], dtype: torch.dtype) -> None:
    layer = linear(*steps())
    before = layer.weight.detach()
    weight = layer.to(dtype).weight
    assert weight.dtype is dtype
    torch.testing.assert_close(weight.float(), before, rtol=0.05, atol=0)
    assert last(layer).signs.dtype is torch.int8


@all_steps
def test_a_pickled_state_restores_an_equal_layer(steps: Callable[[], list[Any]]) -> None:
    layer, other = linear(*steps()), linear(*steps())
    other.load_state_dict(pickle.loads(pickle.dumps(layer.state_dict())))
    assert torch.equal(other.weight, layer.weight)


@all_steps
def test_meta_and_back(steps: Callable[[], list[Any]]) -> None:
    layer = linear(*steps())
    state, before = copy.deepcopy(layer.state_dict()), layer.weight.detach()
    layer.to("meta").to_empty(device=before.device)
    layer.load_state_dict(state)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("sign", [1, COLUMNS, signs.dale(0.5, shuffle=True)], ids=["number", "tensor", "rule"])
@pytest.mark.parametrize("first", [[], [MaskedSparse(masks.lower_triangular())]], ids=["alone", "masked"])
def test_a_model_is_built_on_the_meta_device(sign: Any, first: list[Any]) -> None:
    with torch.device("meta"):
        layer = linear(*copy.deepcopy(first), Signed(sign))
        assert layer(torch.ones(2, 4)).is_meta
        state = layer.state_dict()
        assert not state[f"parametrizations.weight.{len(first)}._extra_state"].is_meta
    layer.to_empty(device="cpu").reset_parameters()
    kept = torch.ones(4, 4, device="cpu").tril() if first else torch.ones(4, 4, device="cpu")
    require_signs(layer.weight.detach(), last(layer).signs.cpu() * kept)


def test_signs_are_registered_in_inference_mode_and_train_outside() -> None:
    model: Any = nn.Linear(4, 4)
    with torch.inference_mode():
        register(model, {"weight": [MaskedSparse(masks.lower_triangular()), Signed(signs.as_is())]})
        _ = model.weight
    model(torch.ones(2, 4)).sum().backward()
    assert stored(model).grad is not None


def refused(layer: Any, state: dict[str, Any], message: str) -> None:
    before, held = layer.weight.detach(), last(layer).signs
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(state)
    assert torch.equal(layer.weight, before)
    assert torch.equal(last(layer).signs, held)


def test_a_checkpoint_with_signs_of_another_shape_is_refused() -> None:
    layer = linear(Signed(COLUMNS))
    refused(layer, linear(Signed(signs.as_is())).state_dict(), r"Signed needs 4 signs, -1, 0 or 1, .* shape \(16,\)")


@pytest.mark.parametrize("plain", [False, True])
def test_a_checkpoint_of_the_other_sign_is_refused(plain: bool) -> None:
    state = linear(Signed(-1)).state_dict()
    refused(linear(Signed(1)), dict(state) if plain else state, r"Signed.*\+1.* Got (one of )?.*-1")


def test_a_checkpoint_of_the_other_map_is_refused() -> None:
    state = linear(Signed(1, map="softplus")).state_dict()
    refused(linear(Signed(1)), state, r"needs a checkpoint of Signed\(\+1, map='exp'\).* map='softplus'")


@pytest.mark.parametrize("damage", [torch.tensor([1, 1, 1, 2]), torch.tensor([1, 1]), "text", None, torch.ones(2, 2)])
@pytest.mark.parametrize("first", [[], [MaskedSparse(masks.lower_triangular())]], ids=["alone", "masked"])
def test_damaged_signs_are_refused(damage: Any, first: list[Any]) -> None:
    first = copy.deepcopy(first)
    layer, saved = linear(*first, Signed(COLUMNS)), linear(*copy.deepcopy(first), Signed(-COLUMNS))
    state = dict(saved.state_dict()) | {f"parametrizations.weight.{len(first)}._extra_state": damage}
    refused(layer, state, "Signed needs 4 signs, -1, 0 or 1, in its checkpoint. Got")


def test_signs_of_single_entries_load_with_their_mask() -> None:
    layer, saved = (linear(MaskedSparse(masks.random(density=0.5)), Signed(signs.as_is())) for _ in range(2))
    layer.load_state_dict(saved.state_dict())
    assert torch.equal(layer.weight, saved.weight)
    fewer = linear(MaskedSparse(masks.random(density=0.25)), Signed(signs.as_is()))
    layer.load_state_dict(fewer.state_dict())
    assert torch.equal(layer.weight, fewer.weight)
    assert last(layer).signs.shape == (4,)


def test_pytorch_transfers_signs_with_the_weight() -> None:
    layer = linear(MaskedSparse(masks.lower_triangular()), Signed(COLUMNS))
    other: Any = transfer_parametrizations_and_params(layer, nn.Linear(4, 4))
    assert torch.equal(other.weight, layer.weight)


def test_dale_makes_the_first_columns_excitatory() -> None:
    layer = linear(Signed(signs.dale(0.75)))
    assert (layer.weight > 0).all(0).tolist() == [True, True, True, False]
    assert (layer.weight < 0).all(0).tolist() == [False, False, False, True]
    assert int((signs.dale()(torch.empty(3, 10)) == 1).sum()) == 8


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dale_shuffles_by_its_generator_alone(share: float) -> None:
    def drawn(seed: int) -> Tensor:
        rule = signs.dale(share, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return rule(torch.empty(2, 100))

    before = torch.get_rng_state()
    assert torch.equal(drawn(1), drawn(1))
    assert torch.equal(drawn(1), drawn(2)) == (share in (0, 1))
    assert int((drawn(1) == 1).sum()) == round(100 * share)
    assert torch.equal(torch.get_rng_state(), before)


def test_dale_shuffles_by_the_default_generator_otherwise() -> None:
    rule = signs.dale(0.5, shuffle=True)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(rule(torch.empty(2, 100)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_one_generator_draws_other_signs_for_each_weight() -> None:
    rule = signs.dale(0.5, shuffle=True, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(100, 4), nn.Linear(4, 4), nn.Linear(100, 4))
    register(model, {"[02].weight": Signed(rule)})
    one, other = last(model[0]).signs, last(model[2]).signs
    assert not torch.equal(one, other)


def test_a_weight_of_another_shape_is_outside_before_registration() -> None:
    assert Signed(COLUMNS).contains(torch.tensor([2.0, -1.0, 0.0, 3.0]))
    assert not Signed(COLUMNS).contains(torch.ones(4))
    assert not Signed(COLUMNS).contains(torch.ones(3))
    assert not linear(Signed(COLUMNS)).parametrizations.weight[0].contains(torch.tensor([2.0, -1.0, 0.0, 3.0]))


def test_as_is_keeps_zeros_positive() -> None:
    layer = attached(torch.tensor([-2.0, -0.0, 0.0, 3.0]), Signed(signs.as_is()))
    torch.testing.assert_close(layer.weight, torch.tensor([-2.0, 1e-4, 1e-4, 3.0]))


def test_given_signs_are_copied() -> None:
    given = torch.tensor([1, -1])
    layer = attached(torch.randn(2), Signed(given))
    given.neg_()
    last(layer).signs.neg_()
    assert layer.weight.sign().tolist() == [1, -1]


@pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (2, 3, 4), (2, 3, 4, 5)], ids=str)
@every_map
def test_weights_of_any_shape(map: Any, shape: tuple[int, ...]) -> None:
    for rule in (-1, signs.as_is()):
        layer = attached(torch.randn(shape), Signed(rule, map=map))
        assert layer.weight.shape == stored(layer).shape == shape
        layer(torch.ones(shape)).sum().backward()
        require_signs(layer.weight.detach(), last(layer).signs)


def test_a_convolution_has_a_sign_for_each_input_channel() -> None:
    sign = torch.tensor([1, -1, 0]).view(3, 1, 1)
    layer: Any = register(nn.Conv2d(3, 5, 2), {nn.Conv2d: Signed(sign)})
    require_signs(layer.weight.detach(), sign)
    input = torch.randn(1, 3, 4, 4)
    assert torch.equal(bake(layer)(input), layer(input))


def test_each_gate_of_an_lstm_has_its_signs() -> None:
    gates = torch.tensor([1, -1, 0, 1]).repeat_interleave(3)[:, None]
    layer: Any = register(nn.LSTM(2, 3), {"weight_hh_l0": Signed(gates)})
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    for _ in range(3):
        layer(torch.randn(4, 1, 2))[0].square().sum().backward()
        optimizer.step()
    require_signs(layer.weight_hh_l0.detach(), gates)
    (row,) = summary(layer).rows
    assert row.holds


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every_size
def test_tracing_gives_the_same_without_warnings(rows: int) -> None:
    layer = attached(torch.randn(rows, 4), Signed(COLUMNS))
    input = torch.randn(rows, 4)
    trace: Any = torch.jit.trace
    traced = trace(layer, (input,))
    torch.testing.assert_close(traced(input), layer(input))


def test_an_embedding_is_non_negative() -> None:
    layer: Any = register(nn.Embedding(6, 3), {"weight": Signed(1, map="softplus")})
    layer(torch.tensor([1, 4])).sum().backward()
    gradient = stored(layer).grad
    assert gradient is not None
    assert (gradient != 0).any(1).tolist() == [False, True, False, False, True, False]
    require_signs(layer.weight.detach(), torch.tensor(1))


COMPILED: dict[str, Callable[[], list[Any]]] = {
    **STEPS,
    "diagonal": lambda: [Diagonal(), Signed(COLUMNS)],
    "csr": lambda: [MaskedSparse(masks.random(density=0.5), product="csr"), Signed(COLUMNS, map="softplus")],
}


@pytest.mark.slow
@of_the_compiler
@pytest.mark.parametrize("steps", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_layers_give_the_same(steps: Callable[[], list[Any]], backend: str) -> None:
    torch.compiler.reset()
    layer = linear(*steps())
    compiled: Any = torch.compile(layer, fullgraph=True, backend=backend)
    input = torch.randn(3, 4, requires_grad=True)
    leaves = [input, *layer.parameters()]
    found, expected = compiled(input), layer(input)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@of_the_compiler
@every_map
def test_a_large_weight_compiles_and_trains(map: Any) -> None:
    torch.compiler.reset()
    layer = linear(Signed(torch.arange(300) % 3 - 1, map=map), columns=300, rows=300)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    input = torch.randn(3, 300)
    found, expected = ([out, *torch.autograd.grad(out.sum(), stored(layer))] for out in (compiled(input), layer(input)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@of_the_compiler
@pytest.mark.parametrize("steps", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("strict", [False, True])
def test_exported_layers_give_the_same(steps: Callable[[], list[Any]], strict: bool) -> None:
    layer, input = linear(*steps()), torch.randn(3, 4)
    program = torch.export.export(layer, (input,), strict=strict)
    torch.testing.assert_close(program.module()(input), layer(input))
