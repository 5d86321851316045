"""Adapters: the plain formula, the start from the base's numbers, and the weights that they are merged into."""

import pytest
import torch
from support.models import VOCAB, batch, small, topology_of

from neox.config.sections import ModelConfig
from neox.config.sizes import flops_per_token, parameter_counts
from neox.model.gpt import GPT
from neox.model.lora import adapter_names, is_adapter, merged

EVERYWHERE = {"lora_targets": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]}
MODELS = {
    "attention": {"lora_rank": 3},
    "everywhere": {"lora_rank": 2, "lora_alpha": 5.0, **EVERYWHERE},
    "gated-grouped": {"lora_rank": 2, "activation": "swiglu", "num_kv_heads": 2, "pos_emb": "rotary", **EVERYWHERE},
}


def built(model: ModelConfig, dropout: float = 0.0) -> GPT:
    """A model whose adapters matter."""
    gpt = GPT(model.model_copy(update={"lora_dropout": dropout}), vocab_size=VOCAB, topology=topology_of(), seed=3)
    generator = torch.Generator().manual_seed(9)
    for name, parameter in gpt.named_parameters():
        if name.endswith("adapter.up"):
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return gpt


@pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)
def test_training_starts_from_what_the_base_computes(keys: dict) -> None:
    model, (tokens, _, _) = small(**keys), batch()
    adapted = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3)
    base = GPT(model.model_copy(update={"lora_rank": None}), vocab_size=VOCAB, topology=topology_of(), seed=3)
    assert torch.equal(adapted(tokens), base(tokens))
    trained = {name: parameter.numel() for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained and all(map(is_adapter, trained))
    counts = parameter_counts(model, VOCAB)
    assert counts.trainable == sum(trained.values())
    assert counts.total == sum(parameter.numel() for parameter in adapted.parameters())


@pytest.mark.parametrize("keys", MODELS.values(), ids=MODELS)
def test_merged_weights_compute_the_same(keys: dict) -> None:
    model, (tokens, _, _) = small(**keys), batch()
    adapted = built(model)
    weights = dict(adapted.named_parameters())
    plain = GPT(model.model_copy(update={"lora_rank": None}), vocab_size=VOCAB, topology=topology_of())
    for name, parameter in plain.named_parameters():
        down, up = adapter_names(name)
        parameter.data = merged(weights[name], weights[down], weights[up], model) if down in weights else weights[name]
    torch.testing.assert_close(adapted(tokens), plain(tokens), rtol=1e-4, atol=1e-5)


def test_a_layer_is_the_plain_formula() -> None:
    model = small(lora_rank=3, lora_alpha=6.0)
    hidden = torch.randn(5, 2, model.hidden_size, generator=torch.Generator().manual_seed(2))
    attention = built(model).layers[1].attention
    for layer in (attention.query_key_value, attention.dense):
        expected = hidden @ layer.weight.t() + layer.bias
        expected += 2.0 * (hidden @ layer.adapter.down.t()) @ layer.adapter.up.t()
        torch.testing.assert_close(layer(hidden), expected)


def test_dropout_is_for_training_alone() -> None:
    model, (tokens, _, _) = small(**MODELS["everywhere"]), batch()
    expected, dropping = built(model), built(model, dropout=0.5)
    assert not torch.equal(dropping(tokens), expected(tokens))
    assert torch.equal(dropping.eval()(tokens), expected(tokens))


def test_frozen_weights_take_no_gradient_and_fewer_operations() -> None:
    model = small(**MODELS["everywhere"])
    gpt = built(model)
    gpt(batch()[0]).square().mean().backward()
    assert all((parameter.grad is not None) == is_adapter(name) for name, parameter in gpt.named_parameters())
    base = model.model_copy(update={"lora_rank": None})
    assert 2 / 3 < flops_per_token(model, VOCAB) / flops_per_token(base, VOCAB) < 1
