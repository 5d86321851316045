"""Sizes against published models and against arithmetic done by hand."""

import pytest

from neox.config.read import config_from_values
from neox.config.sections import ModelConfig
from neox.config.shapes import attention_kinds, ffn_width
from neox.config.sizes import (
    blocks_of_stage,
    flops_per_token,
    mean_visible_tokens,
    padded_vocab_size,
    parameter_counts,
    stage_experts,
    stage_parameters,
)

GPT2, NEOX = 50_257, 50_277


def shape(layers, hidden, heads, **keys):
    base = {"pos_emb": "rotary", "no_weight_tying": True, "max_position_embeddings": 2048}
    return ModelConfig(num_layers=layers, hidden_size=hidden, num_attention_heads=heads, **{**base, **keys})


LLAMA = {
    "norm": "rmsnorm",
    "activation": "swiglu",
    "use_bias_in_attn_linear": False,
    "use_bias_in_mlp": False,
    "make_vocab_size_divisible_by": 1,
    "intermediate_size": 32_768,
    "mlp_multiple_of": 256,
}
PARALLEL = {"rotary_pct": 0.25, "gpt_j_residual": True}


@pytest.mark.parametrize(
    ("model", "vocab_size", "total", "non_embedding"),
    [
        (shape(6, 512, 8), GPT2, 70.4e6, 18.9e6),
        (shape(12, 768, 12), GPT2, 162.3e6, 85.1e6),
        (shape(24, 1024, 16), GPT2, 405.3e6, 302.3e6),
        (shape(24, 2048, 16), GPT2, 1414.6e6, 1208.6e6),
        (shape(44, 6144, 64, **PARALLEL), NEOX, 20.55e9, 19.93e9),
        (shape(6, 128, 4, **PARALLEL), NEOX, 14.1e6, 1.2e6),
        (shape(32, 4096, 32, **LLAMA), 32_000, 6.738e9, 6.476e9),
    ],
)
def test_published_counts(model, vocab_size, total, non_embedding):
    counts = parameter_counts(model, vocab_size)
    assert counts.total == pytest.approx(total, rel=0.004 if total < 2e7 else 0.0008)
    assert counts.non_embedding == pytest.approx(non_embedding, rel=0.02 if non_embedding < 2e6 else 0.002)


def test_exact_counts():
    assert parameter_counts(shape(6, 128, 4), NEOX).total == 14_067_712
    assert parameter_counts(shape(6, 512, 8), NEOX).total == 70_426_624
    assert parameter_counts(shape(12, 768, 12), NEOX).total == 162_322_944
    assert parameter_counts(shape(44, 6144, 64), 50_432).total == 20_554_567_680
    assert parameter_counts(shape(32, 4096, 32, **LLAMA), 32_000).total == 6_738_415_616
    # GPT-2 small: tied, learned positions, biases everywhere
    gpt2 = shape(12, 768, 12, pos_emb="learned", no_weight_tying=False, max_position_embeddings=1024)
    assert parameter_counts(gpt2, GPT2).total_unpadded == 124_439_808


MIXTRAL = {
    **LLAMA,
    "num_kv_heads": 8,
    "intermediate_size": None,
    "mlp_multiple_of": 1,
    "ffn_hidden_size": 14_336,
    "moe_num_experts": 8,
    "moe_top_k": 2,
}


def test_a_token_passes_through_a_part_of_the_experts():
    """Mixtral 8x7B: 46.7 billion parameters, of which a token uses 12.9 (Jiang et al., 2024)."""
    counts = parameter_counts(shape(32, 4096, 32, **MIXTRAL), 32_000)
    assert counts.total == 46_702_792_704
    assert counts.active == counts.total - 32 * 6 * 3 * 14_336 * 4096 == pytest.approx(12.9e9, rel=2e-3)
    dense = parameter_counts(shape(32, 4096, 32, **LLAMA), 32_000)
    assert dense.active == dense.total


def test_20b_at_this_vocabulary():
    counts = parameter_counts(shape(44, 6144, 64, **PARALLEL), NEOX)
    assert padded_vocab_size(shape(44, 6144, 64), NEOX) == 50_304
    assert counts.total == counts.non_embedding + 2 * 50_304 * 6144
    assert counts.total_unpadded == counts.non_embedding + 2 * NEOX * 6144


@pytest.mark.parametrize(
    ("keys", "width"),
    [
        ({}, 4 * 768),
        ({"intermediate_size": 1000}, 1000),
        ({"intermediate_size": 1000, "mlp_multiple_of": 256}, 1000),
        ({"activation": "swiglu"}, 1024),
        ({"activation": "swiglu", "intermediate_size": 32_768, "mlp_multiple_of": 256}, 11_008),
        ({"activation": "swiglu", "intermediate_size": 1000}, 334),
        ({"activation": "swiglu", "ffn_hidden_size": 1000, "mlp_multiple_of": 256}, 1000),
    ],
)
def test_mlp_width(keys, width):
    assert ffn_width(shape(12, 768, 12, **keys)) == width


@pytest.mark.parametrize(
    ("pattern", "kinds"),
    [
        (None, "gggg"),
        ([[["global", "local"], 2]], "glgl"),
        ([[["flash"], 2], [["local"], "all"]], "ggll"),
        ([[["local", "global", "global"], "all"]], "lggl"),
        (["local", "global", "flash", "local"], "lggl"),
    ],
)
def test_attention_kinds(pattern, kinds):
    model = shape(4, 64, 4, attention_config=pattern)
    assert "".join(kind[0] for kind in attention_kinds(model)) == kinds


def test_visible_tokens_are_counted_truly():
    for length in (1, 2, 7, 32):
        for window in (1, 3, 7, 100):
            visible = [min(position + 1, window) for position in range(length)]
            assert mean_visible_tokens(length, window) == pytest.approx(sum(visible) / length)
        assert mean_visible_tokens(length, None) == (length + 1) / 2


def test_flops():
    model = shape(2, 64, 4, seq_length=32)
    matrices = 2 * 12 * 64 * 64 + 128 * 64
    assert flops_per_token(model, 100) == 6 * matrices + 12 * 64 * 2 * 16.5
    windowed = shape(2, 64, 4, seq_length=32, attention_config=[[["local"], "all"]], window_size=1)
    assert flops_per_token(windowed, 100) == 6 * matrices + 12 * 64 * 2


def test_flops_are_those_of_the_experts_that_work():
    dense = flops_per_token(shape(4, 64, 4, seq_length=32), 100)
    mixture = {"moe_num_experts": 8, "moe_top_k": 2, "moe_expert_interval": 2}
    second_experts, routers = 2 * 8 * 64 * 64, 2 * 8 * 64
    assert flops_per_token(shape(4, 64, 4, seq_length=32, **mixture), 100) == dense + 6 * (second_experts + routers)


def plan(**keys):
    base = {
        "num_layers": 4,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "no_weight_tying": True,
        "train_micro_batch_size_per_gpu": 2,
        "train_iters": 10,
    }
    return config_from_values({**base, **keys})


def test_the_shards_of_all_processes_hold_the_model():
    shapes = (
        {},
        {"no_weight_tying": False},
        {"activation": "swiglu"},
        {"pos_emb": "none", "norm": "rmsnorm"},
        {"pos_emb": "rpe", "num_kv_heads": 2, "use_qk_layernorm": True, "gpt_j_residual": True, "gpt_j_tied": True},
    )
    for keys in shapes:
        for tensor, pipe in ((1, 1), (2, 1), (1, 4), (2, 3)):
            config = plan(model_parallel_size=tensor, pipe_parallel_size=pipe, num_gpus=tensor * pipe, **keys)
            stages = [stage_parameters(config, GPT2, stage) for stage in range(pipe)]
            total = parameter_counts(config.model, GPT2).total
            if not config.model.no_weight_tying and pipe > 1:
                total += padded_vocab_size(config.model, GPT2) * 64  # the tied table is on two stages
            assert total <= tensor * sum(stages) <= total * (1 + 0.002 * (tensor - 1))  # norms are on every process


def test_replicas_share_the_experts():
    mixture = {"moe_num_experts": 8, "moe_expert_interval": 2, "num_gpus": 4}
    alone, shared, split = (
        plan(**mixture, **keys)
        for keys in ({}, {"moe_expert_parallel_size": 4}, {"moe_expert_parallel_size": 2, "model_parallel_size": 2})
    )
    expert = 2 * 4 * 64 * 64 + 5 * 64
    assert stage_parameters(alone, GPT2, 0) == parameter_counts(alone.model, GPT2).total
    assert stage_experts(alone, 0) == 2 * 8 * expert
    assert stage_experts(shared, 0) == 2 * 2 * expert
    assert stage_parameters(alone, GPT2, 0) - stage_parameters(shared, GPT2, 0) == 2 * 6 * expert
    # every process of a tensor-parallel group holds the second bias
    assert stage_experts(split, 0) == 2 * 4 * (expert + 64) / 2


def test_blocks_of_stages():
    assert [blocks_of_stage(10, 4, stage) for stage in range(4)] == [3, 3, 2, 2]
