"""``reset_parameters`` after registering, and layers built on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from typing_extensions import override

from parametrizations import Diagonal, MaskedSparse, NegExpDiagonal, Signed, ZeroDiagonal, masks, register

RULES: dict[str, Callable[[], Any]] = {
    "Diagonal": Diagonal,
    "ZeroDiagonal": ZeroDiagonal,
    "NegExpDiagonal": NegExpDiagonal,
    "MaskedSparse": lambda: MaskedSparse(masks.banded(2, 1)),
    "chain": lambda: [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()],
    "diagonals": lambda: [Diagonal(), NegExpDiagonal()],
    "signs": lambda: [MaskedSparse(masks.lower_triangular()), Signed(-1)],
    "softplus": lambda: [MaskedSparse(masks.banded(2, 1)), Signed(1, map="softplus")],
    "three": lambda: [MaskedSparse(masks.lower_triangular()), ZeroDiagonal(), Signed(1)],
}
every = pytest.mark.parametrize("make", RULES.values(), ids=RULES)


@every
def test_resetting_gives_the_distribution_of_initialising_and_then_registering(make: Callable[[], Any]) -> None:
    layer, optimized = register(nn.Linear(400, 300), {"weight": make()}), []
    optimized += [id(parameter) for parameter in layer.parameters()]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(9)
    layer.reset_parameters()
    like = register(nn.Linear(400, 300), {"weight": make()})
    assert [id(parameter) for parameter in layer.parameters()] == optimized
    for one, other in ((layer.weight, like.weight), (layer.bias, like.bias)):
        for share in (0.0, 0.1, 0.5, 0.9, 1.0):
            assert abs(_quantile(one, share) - _quantile(other, share)) < 0.012  # of 0.1
    assert bool(((layer.weight == 0) == (like.weight == 0)).all())


def _quantile(tensor: Tensor, share: float) -> float:
    values = tensor.detach().flatten().sort().values
    return values[min(int(share * len(values)), len(values) - 1)].item()


@every
def test_built_on_meta_moved_and_reset(make: Callable[[], Any]) -> None:
    with torch.device("meta"):
        layer = register(nn.Linear(6, 5), {"weight": make()})
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    output = layer(torch.ones(2, 6))
    assert bool(output.isfinite().all())
    output.sum().backward()


def test_a_layer_too_large_to_be_dense_is_reset() -> None:
    n = 2**20
    with torch.device("meta"):
        layer: Any = register(nn.Linear(n, n), {"weight": Diagonal()})
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    x = layer.parametrizations.weight.original.detach()
    bound = 1 / n**0.5
    assert -bound <= x.min().item() < -0.99 * bound
    assert 0.99 * bound < x.max().item() <= bound
    torch.testing.assert_close(x.std(), torch.tensor(bound / 3**0.5), rtol=0.01, atol=0)


class Orthogonal(nn.Linear):
    @override
    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)


class Truncated(nn.Linear):
    @override
    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=3)
        self.bias = nn.Parameter(torch.full((self.out_features,), 7.0))


def test_an_initialisation_that_needs_the_matrix_materialises_it() -> None:
    layer: Any = register(Orthogonal(5, 5), {"weight": Diagonal()})
    layer.reset_parameters()
    assert 0 < layer.weight.diagonal().abs().max().item() <= 1
    with torch.device("meta"):
        layer = register(Orthogonal(2**20, 2**20), {"weight": Diagonal()})
    layer.to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"Orthogonal.reset_parameters needs 4.4 TB"):
        layer.reset_parameters()


def test_an_elementwise_initialisation_needs_no_matrix_and_may_set_other_parameters() -> None:
    layer: Any = register(Truncated(50, 50), {"weight": Diagonal()})
    layer.reset_parameters()
    values = layer.weight.diagonal()
    assert 0.2 < values.std().item() < 3
    assert -2 <= values.min().item() < values.max().item() <= 2
    assert bool((layer.bias == 7).all())
    assert dict(layer.named_parameters())["bias"] is layer.bias


class Partly(nn.Module):
    """Its ``reset_parameters`` takes an argument, fills one of two parameters, counts, and replaces a child."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(4, 4)), nn.Parameter(torch.full((4, 4), -2.0))
        self.child, self.after, self.calls = nn.Linear(1, 1), nn.Linear(1, 1), 0

    def reset_parameters(self, std: float = 1.0) -> None:
        nn.init.normal_(self.a, std=std)
        self.calls += 1
        self.child = nn.Linear(2, 2)


def test_a_reset_changes_only_what_it_changes_in_the_plain_module() -> None:
    module = register(Partly(), {"b": [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()], "a": ZeroDiagonal()})
    before, order = module.b.detach().clone(), list(module._modules)
    module.reset_parameters(std=0.01)
    assert torch.equal(module.b, before)
    assert 0 < module.a.abs().max().item() < 0.1
    assert module.calls == 1
    assert module.child.in_features == 2
    assert list(module._modules) == order


class Assigning(nn.Linear):
    @override
    def reset_parameters(self) -> None:
        self.weight.data = torch.full(self.weight.shape, 3.0)
        self.bias.data.zero_()


@pytest.mark.parametrize("make", [Diagonal, lambda: MaskedSparse(masks.banded(1, 1)), ZeroDiagonal])
def test_an_initialisation_that_assigns_data_counts(make: Callable[[], Any]) -> None:
    layer = register(Assigning(3, 3), {"weight": make()})
    layer.weight = torch.zeros(3, 3)
    layer.reset_parameters()
    assert bool(((layer.weight == 3) | (layer.weight == 0)).all())
    assert bool((layer.weight == 3).any())


def test_a_failing_initialisation_leaves_the_layer_constrained() -> None:
    class Failing(nn.Linear):
        fails = False

        @override
        def reset_parameters(self) -> None:
            if self.fails:
                raise KeyError("not today")
            super().reset_parameters()

    layer = register(Failing(3, 3), {"weight": ZeroDiagonal()})
    before = layer.weight.detach().clone()
    layer.fails = True
    with pytest.raises(KeyError, match="not today"):
        layer.reset_parameters()
    assert torch.equal(layer.weight, before)


def test_attention_built_on_meta_is_initialised() -> None:
    with torch.device("meta"):
        attention: Any = register(nn.MultiheadAttention(8, 2), {"in_proj_weight": ZeroDiagonal(blocks=3)})
    attention.to_empty(device="cpu")
    with torch.no_grad():
        attention.parametrizations.in_proj_weight.original.fill_(777)
    attention._reset_parameters()
    assert 0 < attention.in_proj_weight.abs().max().item() < 1
    assert bool((attention.in_proj_weight.diagonal() == 0).all())


def test_recurrent_and_embedding_layers_and_third_party_parametrizations_reset() -> None:
    model: Any = register(nn.LSTM(3, 4), {"weight_hh_l0": ZeroDiagonal(blocks=4), "weight_ih_l0": Diagonal(blocks=1)})
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.reset_parameters()
    assert not any(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))
    assert bool((model.weight_hh_l0.diagonal() == 0).all())
    embedding: Any = register(nn.Embedding(5, 4), {"weight": Diagonal()})
    embedding.reset_parameters()
    assert int((embedding.weight != 0).sum()) == 4
    layer: Any = register(weight_norm(nn.Linear(4, 4)), {"bias": nn.Identity()})
    layer.reset_parameters()
    assert layer.weight.abs().max().item() <= 0.5


class Bound(nn.Linear):
    """Initialises through a bound method stored as an attribute."""

    def __init__(self, size: int) -> None:
        self.fill = self.threes
        super().__init__(size, size)

    def threes(self) -> None:
        nn.init.constant_(self.weight, 3)

    @override
    def reset_parameters(self) -> None:
        self.fill()


class Slotted(nn.Linear):
    """Keeps an attribute outside its ``__dict__``, and ``__new__`` takes an argument."""

    __slots__ = ("gain",)

    def __new__(cls, size: int) -> Any:  # noqa: ARG004
        return super().__new__(cls)

    def __init__(self, size: int) -> None:
        self.gain = 3.0
        super().__init__(size, size)

    @override
    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, self.gain)


@pytest.mark.parametrize("kind", [Bound, Slotted])
def test_the_layer_itself_is_initialised_not_another_object(kind: Callable[[int], nn.Linear]) -> None:
    layer = register(kind(3), {"weight": ZeroDiagonal()})
    layer.weight = torch.zeros(3, 3)
    layer.reset_parameters()
    assert torch.equal(layer.weight, 3 * (1 - torch.eye(3)))


def test_attributes_that_a_reset_deletes_are_gone() -> None:
    class Deleting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            self.register_buffer("cache", torch.ones(2))
            self.child = nn.Linear(1, 1)

        @override
        def reset_parameters(self) -> None:
            super().reset_parameters()
            if hasattr(self, "cache"):
                del self.cache, self.child

    layer = register(Deleting(), {"weight": ZeroDiagonal()})
    layer.reset_parameters()
    assert not hasattr(layer, "cache")
    assert not hasattr(layer, "child")


@pytest.mark.parametrize("make", [Diagonal, ZeroDiagonal, lambda: MaskedSparse(masks.banded(1, 1))])
def test_a_reset_that_fails_late_leaves_the_weight(make: Callable[[], nn.Module]) -> None:
    class Late(nn.Linear):
        late = False

        @override
        def reset_parameters(self) -> None:
            super().reset_parameters()
            if self.late:
                raise ValueError("late")

    layer = register(Late(3, 3), {"weight": make()})
    layer.late, before = True, layer.weight.detach().clone()
    with pytest.raises(ValueError, match="late"):
        layer.reset_parameters()
    assert torch.equal(layer.weight, before)


def test_an_initialisation_that_needs_the_matrix_draws_the_numbers_of_the_plain_layer() -> None:
    plain = nn.Embedding(4, 4, padding_idx=0)
    layer = register(nn.Embedding(4, 4, padding_idx=0), {"weight": MaskedSparse(torch.ones(4, 4).bool())})
    drawn = []
    for one in (plain, layer):
        torch.manual_seed(1)
        one.reset_parameters()
        drawn.append(torch.rand(1))
    assert torch.equal(plain.weight, layer.weight)
    assert torch.equal(*drawn)


def test_a_layer_that_is_reset_in_inference_mode_trains() -> None:
    layer = register(weight_norm(nn.Linear(3, 3)), {"bias": nn.Identity()})
    with torch.inference_mode():
        layer.reset_parameters()
    layer(torch.ones(1, 3)).sum().backward()
    assert not any(one.is_inference() for one in layer.parameters())


@every
def test_a_reset_on_meta_changes_nothing(make: Callable[[], Any]) -> None:
    layer = register(nn.Linear(9, 9, device="meta"), {"weight": make()})
    layer.reset_parameters()
    assert layer.weight.shape == (9, 9)
