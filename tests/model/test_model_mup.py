"""muP: at the base's width nothing changes, and wider, all of it follows from the width."""

import math

import pytest
import torch
from support.models import VOCAB, batch, small, topology_of

from neox.config.mup import width_multiplier
from neox.config.sections import ModelConfig, OptimizerConfig
from neox.model.gpt import GPT
from neox.training.optimizer import build_optimizer, parameter_groups, set_learning_rate

HEAD_16 = {"hidden_size": 64, "num_attention_heads": 4, "no_weight_tying": True, "pos_emb": "rpe"}
MUP = {**HEAD_16, "use_mup": True, "mup_base_hidden_size": 32, "mup_base_num_attention_heads": 8}  # heads of 4


def built(model: ModelConfig) -> GPT:
    return GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3)


@pytest.mark.parametrize("init_method", ["normal", "small_init"])
def test_at_the_width_of_the_base_it_is_the_standard_parametrisation(init_method: str) -> None:
    keys = {**HEAD_16, "init_method": init_method, "output_layer_init_method": "wang_init"}
    model = small(**keys, use_mup=True, mup_base_hidden_size=64, mup_base_num_attention_heads=4)
    plain, base = built(small(**keys)), built(model)
    for (name, weight), other in zip(plain.named_parameters(), base.parameters()):
        assert torch.equal(weight, other), name
    tokens, _, _ = batch()
    assert torch.equal(plain(tokens), base(tokens))
    groups = parameter_groups(base, 0.1, width_multiplier(model))
    assert [group["lr_factor"] for group in groups] == [1.0, 1.0]


@pytest.mark.parametrize("tied", [False, True])
def test_its_factors_can_be_folded_into_the_weights(tied: bool) -> None:
    temperatures = {
        "mup_attn_temp": 0.5,
        "mup_output_temp": 4.0,
        "mup_embedding_mult": 3.0,
        "mup_rp_embedding_mult": 2.0,
    }
    wide = built(small(**{**MUP, **temperatures, "init_method_std": 0.5, "no_weight_tying": not tied}))
    plain = built(small(**{**HEAD_16, "no_weight_tying": not tied}))
    plain.load_state_dict(wide.state_dict())
    embedding, *blocks, _, _ = plain.layers if not tied else [*plain.layers, None]
    tokens, _, _ = batch()
    with torch.no_grad():
        expected = wide(tokens)
        for block in blocks:
            queries = block.attention.query_key_value.weight.view(4, 3, 16, 64)[:, 0]
            # divided by 16, not by its root; in heads of 4, the base's, that is the same
            queries *= (math.sqrt(4) / 16) / (1 / math.sqrt(16)) / 0.5
            block.attention.position_bias.weight *= 2.0
        if tied:
            embedding.word_embeddings.weight *= 3.0
            found = plain(tokens) / (2 * 4.0) / 3.0
        else:
            embedding.word_embeddings.weight *= 3.0
            plain.layers[-1].final_linear.weight /= 2 * 4.0
            found = plain(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("init_method", ["normal", "small_init"])
def test_initial_variance_falls_with_the_width_in_the_blocks_alone(init_method: str) -> None:
    keys = {**MUP, "init_method": init_method, "output_layer_init_method": init_method, "num_layers": 1}
    base = built(small(**{**keys, "hidden_size": 32}))
    wide = built(small(**{**keys, "hidden_size": 512, "mup_init_scale": 3.0}))
    for (name, narrow), weight in zip(base.named_parameters(), wide.parameters()):
        if weight.dim() == 2 and "position_bias" not in name:
            falls = math.sqrt(512 / 32) if "attention" in name or "mlp" in name else 1.0
            assert (weight.std() / narrow.std()).item() == pytest.approx(3.0 / falls, rel=0.05), name


def test_matrices_of_the_blocks_learn_more_slowly_and_decay_as_fast() -> None:
    model = small(**MUP)
    gpt = built(model)
    optimizer = build_optimizer(OptimizerConfig(weight_decay=0.1), gpt, width_multiplier(model))
    before = {name: weight.detach().clone() for name, weight in gpt.named_parameters()}
    for weight in gpt.parameters():
        weight.grad = torch.ones_like(weight)
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()
    for name, weight in gpt.named_parameters():
        is_matrix = weight.dim() == 2
        in_blocks = is_matrix and ("attention.d" in name or "query" in name or "mlp" in name)
        decayed = before[name] * (1 - 1e-3 * 0.1) if is_matrix else before[name]
        # Adam's first step is the learning rate
        expected = decayed - (5e-4 if in_blocks else 1e-3)
        torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-7, msg=name)


def test_every_pipeline_stage_has_as_many_groups() -> None:
    """DeepSpeed would wait forever for the norm of a group that an inner stage, without embedding and head, does not have."""
    layers = built(small(**{**MUP, "num_layers": 4, "pos_emb": "rotary"})).layers
    stages = (layers[:2], layers[2:4], layers[4:])
    assert [len(parameter_groups(stage, 0.1, 2.0)) for stage in stages] == [3, 3, 3]
    for stage in stages:
        grouped = [parameter for group in parameter_groups(stage, 0.1, 2.0) for parameter in group["params"]]
        assert len(grouped) == len(set(grouped)) == len(list(stage.parameters()))
