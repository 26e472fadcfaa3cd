"""Models of Transformers with masks on their layers train as plain models with masked gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parametrizations import MaskedSparse, bake, masks, plain_state_dict, register, summary

pytestmark = pytest.mark.slow

TOKENS: dict[str, Any] = {"vocab_size": 16, "max_position_embeddings": 16}
SIZES: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LABELS: dict[str, Any] = {"num_labels": 4}
ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1}
CLOSE: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-7}
"""Sums may run in another order; everything is in double precision but Mixtral's norms and router."""


def resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", **LABELS)
    return ResNetForImageClassification(config)


def mobilenet() -> Any:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    small: dict[str, Any] = {"depth_multiplier": 0.25, "depth_divisible_by": 4, "min_depth": 4}
    config = MobileNetV2Config(image_size=32, classifier_dropout_prob=0.0, **small, **LABELS)
    return MobileNetV2ForImageClassification(config)


def bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **TOKENS, **SIZES)
    return BertForMaskedLM(config)


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=8, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **TOKENS, **ENDS)
    return GPT2LMHeadModel(config)


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(num_key_value_heads=1, num_local_experts=4, **TOKENS, **SIZES, **ENDS)
    model = MixtralForCausalLM(config)
    model.set_experts_implementation("eager")  # the one that takes double precision
    return model


def conv1d() -> Any:
    from transformers.pytorch_utils import Conv1D

    return Conv1D


def images() -> dict[str, Tensor]:
    pixels = torch.arange(8 * 3 * 32 * 32, dtype=torch.float64).square().sin().view(8, 3, 32, 32)
    return {"pixel_values": pixels, "labels": torch.arange(8) % 4}


def tokens() -> dict[str, Tensor]:
    ids = torch.arange(48).square().view(4, 12) % 13
    return {"input_ids": ids, "labels": ids}


def quarter() -> MaskedSparse:
    return MaskedSparse(masks.magnitude(density=0.25))


@dataclass(frozen=True)
class Row:
    """A model, its rules, a batch to train it on, and the share of kept entries."""

    make: Callable[[], Any]
    rules: Callable[[], dict[Any, Any]]
    batch: Callable[[], dict[str, Tensor]]
    share: float = 0.25


ROWS = {
    "ResNet": Row(resnet, lambda: {nn.Conv2d: quarter(), nn.Linear: quarter()}, images),
    "ResNet, by layer sizes": Row(resnet, lambda: {nn.Conv2d: MaskedSparse(masks.erdos_renyi(density=0.25))}, images),
    "MobileNetV2": Row(mobilenet, lambda: {nn.Conv2d: quarter(), nn.Linear: quarter()}, images),
    "BERT": Row(bert, lambda: {nn.Linear: quarter(), "cls.predictions.decoder.weight": None}, tokens),
    "GPT-2": Row(gpt2, lambda: {conv1d(): quarter()}, tokens),
    "GPT-2, 2:4": Row(gpt2, lambda: {conv1d(): MaskedSparse(masks.n_of_m(2, 4, axes=(1, 0)))}, tokens, share=0.5),
    "Mixtral": Row(mixtral, lambda: {nn.Linear: quarter(), "*.experts.*_proj": quarter()}, tokens),
    "Mixtral, by layer sizes": Row(
        mixtral,
        lambda: {"*.experts.*_proj": MaskedSparse(masks.erdos_renyi(density=0.25, axes=(-2, -1)))},
        tokens,
    ),
}
every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def constrained(row: Row) -> Any:
    return register(row.make().double(), row.rules())


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The mask of each constrained weight, by its name in the plain model."""
    found = {}
    for row in summary(model).rows:
        path, _, tensor = row.name.rpartition(".")
        module: Any = model.get_submodule(path)
        found[row.name] = module.parametrizations[tensor][0].mask
    return found


def masked(plain: Any, found: dict[str, Tensor]) -> Any:
    """A plain model with weights masked once, and gradients masked at every step."""
    for name, mask in found.items():
        weight = plain.get_parameter(name)
        weight.data.mul_(mask)
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    return plain


def train(model: Any, batch: dict[str, Tensor]) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


@every_row
def test_a_constrained_model_trains_as_the_masked_plain_one(row: Row) -> None:
    plain = row.make().double()
    model = register(copy.deepcopy(plain), row.rules())
    found = masks_of(model)
    assert all(mask.any() for mask in found.values())
    masked(plain, found)
    before = copy.deepcopy(plain.state_dict())
    for each in (model, plain):
        train(each, row.batch())
    expected = plain.state_dict()
    assert all(not torch.equal(expected[name], before[name]) for name in found)
    torch.testing.assert_close(bake(model).state_dict(), expected, **CLOSE)


@every_row
def test_a_trained_model_loads_elsewhere_and_bakes(row: Row, tmp_path: Path) -> None:
    model = constrained(row)
    train(model, row.batch())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    elsewhere = constrained(row)
    elsewhere.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    plain = bake(elsewhere)
    plain.save_pretrained(tmp_path)
    again = type(plain).from_pretrained(tmp_path, config=plain.config, dtype=torch.float64)
    expected = model.eval()(**row.batch()).logits
    for each in (elsewhere, plain, again):
        torch.testing.assert_close(each.eval()(**row.batch()).logits, expected, **CLOSE)
    for name, mask in masks_of(model).items():
        assert torch.equal(masks_of(elsewhere)[name], mask)
        assert not again.get_parameter(name)[~mask].any()


@every_row
def test_the_rules_keep_their_share(row: Row) -> None:
    rows = summary(constrained(row)).rows
    assert sum(each.stored for each in rows) == round(row.share * sum(each.dense for each in rows))


def test_two_of_four_inputs_reach_each_output_of_conv1d() -> None:
    for mask in masks_of(constrained(ROWS["GPT-2, 2:4"])).values():
        groups = mask.T.reshape(mask.shape[1], -1, 4)  # Conv1D stores (in, out)
        assert (groups.sum(2) == 2).all()


@pytest.mark.parametrize(("name", "batch"), [("ResNet, by layer sizes", 0), ("Mixtral, by layer sizes", 1)])
def test_larger_layers_are_sparser(name: str, batch: int) -> None:
    """Erdos-Renyi keeps entries in proportion to the sum of the sides of one weight, for each expert."""
    found = masks_of(constrained(ROWS[name])).values()
    sparse = [mask for mask in found if not mask.all()]
    ratios = [mask.sum() / mask.shape[:batch].numel() / sum(mask.shape[batch:]) for mask in sparse]
    assert len({mask.shape for mask in sparse}) > 1
    torch.testing.assert_close(torch.stack(ratios), ratios[0].expand(len(ratios)), rtol=0.01, atol=0)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_experts_run_in_every_implementation(implementation: str) -> None:
    model = constrained(ROWS["Mixtral"]).float()
    plain = bake(model)
    expected = plain(**tokens()).logits
    for each in (model, plain):
        each.set_experts_implementation(implementation)
        torch.testing.assert_close(each(**tokens()).logits, expected, rtol=1e-5, atol=1e-6)
    model(**tokens()).loss.backward()
    assert all(parameter.grad.any() for name, parameter in model.named_parameters() if "experts" in name)


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


def owners(model: Any) -> list[str]:
    """The names of the tied weight."""
    shared = model.get_input_embeddings().weight
    return [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is shared]


@pytest.mark.parametrize("make", [bert, gpt2, t5])
def test_tied_weights_stay_tied(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokens = make().eval(), torch.arange(10).view(2, 5)
    named = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if make is t5 else {})
    names = owners(model)
    assert len(names) > 1

    def logits(model: Any) -> Tensor:
        output: Tensor = model(**named).logits
        return output

    def registered(model: Any) -> Any:
        step = MaskedSparse(masks.magnitude(density=0.5))
        return register(model, dict.fromkeys(names, step))

    def stored(model: Any) -> set[Tensor]:
        holders = [model.get_submodule(name.rpartition(".")[0]) for name in names]
        return {holder.parametrizations.weight.original for holder in holders}

    registered(model)
    assert len(stored(model)) == 1
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    logits(model).square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    expected = logits(model)
    twin, other = copy.deepcopy(model), registered(make().eval())
    other.load_state_dict(model.state_dict())
    for one in (twin, other):
        assert len(stored(one)) == 1
        assert torch.equal(logits(one), expected)
    plain = make().eval()
    plain.load_state_dict(plain_state_dict(model))
    baked = bake(model)
    baked.save_pretrained(tmp_path)
    for one in (plain, baked, type(baked).from_pretrained(tmp_path).eval()):
        assert owners(one) == names
        assert torch.equal(logits(one), expected)
