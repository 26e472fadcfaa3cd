"""Whole life cycles of real models: register, train, save, load elsewhere, bake, compare outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from parametrizations import (
    Diagonal,
    MaskedSparse,
    NegExpDiagonal,
    ZeroDiagonal,
    bake,
    masks,
    plain_state_dict,
    register,
    summary,
)


@dataclass(frozen=True)
class Life:
    """A model, its constraints, and a function that calls it."""

    make: Callable[[], Any]
    rules: dict[str, Any]
    call: Callable[[Any], Tensor]


def sequence() -> Tensor:
    return torch.linspace(-1, 1, 2 * 5 * 8).view(2, 5, 8)


def ids() -> Tensor:
    return torch.arange(10).view(2, 5)


def recurrent(kind: type[nn.RNNBase]) -> Life:
    rules = {"weight_hh_l*": MaskedSparse(masks.magnitude(density=0.5)), "weight_ih_l0": ZeroDiagonal(blocks=1)}
    return Life(lambda: kind(8, 8, num_layers=2, batch_first=True), rules, lambda model: model(sequence())[0])  # type: ignore[arg-type, call-arg]


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)


class Doubling(nn.Linear):
    @override
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Nested(nn.Module):
    """Holds one sub-module twice, and one with an overridden forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.second = nn.ModuleDict({"again": self.first, "own": Doubling(8, 8)})

    @override
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.second["own"](self.second["again"](self.first(input)))
        return output


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=16,
        )
    )


def bert() -> Any:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config)


CHAIN = [MaskedSparse(masks.lower_triangular()), NegExpDiagonal()]
LIVES = {
    "TransformerEncoder": Life(
        encoder,
        {
            "*.linear1.weight": MaskedSparse(masks.magnitude(density=0.3)),
            "*.out_proj.weight": CHAIN,
            "*.linear2.*t": Diagonal(),
        },
        lambda model: model(sequence()),
    ),
    "MultiheadAttention": Life(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        {"in_proj_weight": ZeroDiagonal(blocks=3), "out_proj.weight": MaskedSparse(masks.n_of_m(2, 4))},
        lambda model: model(sequence(), sequence(), sequence(), need_weights=False)[0],
    ),
    "MultiheadAttention-kdim": Life(
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        {"?_proj_weight": ZeroDiagonal(), "out_proj.weight": Diagonal()},
        lambda model: model(sequence(), sequence()[..., :6], sequence()[..., :4])[0],
    ),
    "RNN": recurrent(nn.RNN),
    "LSTM": recurrent(nn.LSTM),
    "GRU": recurrent(nn.GRU),
    "Nested": Life(Nested, {"first.0.weight": CHAIN, "*own.weight": Diagonal()}, lambda model: model(sequence())),
    "Llama": Life(
        llama,
        {
            "*.q_proj.weight": ZeroDiagonal(),
            "*.mlp.*.weight": MaskedSparse(masks.magnitude(density=0.2)),
            "lm_head.*": Diagonal(),
        },
        lambda model: model(input_ids=ids()).logits,
    ),
    "BERT": Life(
        bert,
        {
            "*.query.weight": Diagonal(),
            "*.dense.weight": MaskedSparse(masks.magnitude(density=0.5)),
            "*.key.weight": CHAIN,
        },
        lambda model: model(input_ids=ids()).last_hidden_state,
    ),
}


def train(model: Any, call: Callable[[Any], Tensor]) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        call(model).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage", "ignore:.*Deprecat")
@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
def test_a_whole_life(life: Life, tmp_path: Path) -> None:
    model = register(life.make(), life.rules)
    train(model, life.call)
    assert all(row.holds for row in summary(model).rows)
    model.eval()
    with torch.no_grad():  # the fast path of attention
        inferred = life.call(model)
    output = life.call(model)
    torch.testing.assert_close(inferred, output)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    elsewhere = register(life.make(), life.rules).eval()
    elsewhere.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    torch.testing.assert_close(life.call(elsewhere), output)
    baked, unconstrained = bake(model), life.make().eval()
    unconstrained.load_state_dict(plain_state_dict(model))
    assert list(baked.state_dict()) == list(unconstrained.state_dict())
    assert [name for name, _ in baked.named_parameters()] == [name for name, _ in unconstrained.named_parameters()]
    torch.save(baked, tmp_path / "baked.pt")
    again = torch.load(tmp_path / "baked.pt", weights_only=False)
    twin = bake(copy.deepcopy(model), inplace=True)  # copies recurrent layers after a forward pass
    for other in (baked, unconstrained, again, twin):
        torch.testing.assert_close(life.call(other), output)
        with torch.no_grad():
            torch.testing.assert_close(life.call(other), output)
    train(model, life.call)  # training continues


@pytest.mark.filterwarnings("ignore")  # from Lightning: deprecated names of torch, advice on loaders
def test_a_lightning_trainer_runs_saves_and_loads(tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net: Any = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
            register(self.net, {"0.weight": NegExpDiagonal(), "2.weight": Diagonal()})

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:  # noqa: ARG002
            loss: Tensor = self.net(batch[0]).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 8)), batch_size=4)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    loaded = Module.load_from_checkpoint(tmp_path / "trained.ckpt", weights_only=True)
    inputs = torch.randn(2, 8)
    torch.testing.assert_close(loaded.net(inputs), module.net(inputs))
    torch.testing.assert_close(bake(module).net(inputs), module.net(inputs))
    assert [row.holds for row in summary(module).rows] == [True, True]
