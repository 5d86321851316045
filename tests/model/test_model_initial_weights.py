"""Initial weights: gpt-neox's distributions, the same for every layout, and as many as the configuration says."""

import math

import pytest
import torch
from support.models import VOCAB, small, topology_of

from neox.config.sizes import parameter_counts
from neox.model.gpt import GPT
from neox.model.initializers import standard_deviation, stream_seed
from neox.model.lora import is_adapter

SHAPES = {
    "learned-tied": {},
    "rotary-untied": {"pos_emb": "rotary", "no_weight_tying": True},
    "llama": {
        "pos_emb": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "mlp_multiple_of": 4,
        "use_bias_in_attn_linear": False,
    },
    "swiglu-with-biases": {"activation": "swiglu", "ffn_hidden_size": 40, "init_method": "xavier_uniform"},
    "grouped": {"num_kv_heads": 4, "num_attention_heads": 8, "use_qk_layernorm": True, "use_bias_in_qkv": False},
    "relative-scalenorm": {"pos_emb": "rpe", "norm": "scalenorm", "init_method": "orthogonal"},
    "experts": {"moe_num_experts": 4, "moe_expert_interval": 2, "activation": "swiglu", "ffn_hidden_size": 40},
    "tied-norm": {"pos_emb": "alibi", "gpt_j_residual": True, "gpt_j_tied": True, "use_bias_in_attn_linear": False},
    "no-norm-weights": {"pos_emb": "sinusoidal", "norm": "non_parametric_layernorm", "use_qk_layernorm": True},
}


@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
def test_shards_are_cut_from_the_whole(keys: dict) -> None:
    model = small(**keys)
    whole = dict(GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3).named_parameters())
    for size in (2, 4):
        ranks = [topology_of(tensor_rank=rank, tensor_size=size) for rank in range(size)]
        shards = [dict(GPT(model, vocab_size=VOCAB, topology=rank, seed=3).named_parameters()) for rank in ranks]
        for name, parameter in whole.items():
            parts = [shard[name] for shard in shards]
            if parts[0].tensor_model_parallel:
                assert torch.equal(torch.cat(parts, parts[0].partition_dim), parameter), name
            else:
                assert all(torch.equal(part, parameter) for part in parts), name


@pytest.mark.parametrize("keys", SHAPES.values(), ids=SHAPES)
def test_counts_are_those_of_the_configuration(keys: dict) -> None:
    model = small(**keys)
    gpt = GPT(model, vocab_size=VOCAB, topology=topology_of())
    assert sum(parameter.numel() for parameter in gpt.parameters()) == parameter_counts(model, VOCAB).total


def test_a_parameter_depends_on_seed_layer_and_name_alone() -> None:
    two, three = (
        dict(GPT(small(num_layers=layers), vocab_size=VOCAB, topology=topology_of(), seed=3).named_parameters())
        for layers in (2, 3)
    )
    name = "layers.2.attention.query_key_value.weight"
    assert torch.equal(two[name], three[name])
    assert not torch.equal(two[name], two[name.replace("layers.2", "layers.1")])
    other = dict(GPT(small(), vocab_size=VOCAB, topology=topology_of(), seed=4).named_parameters())
    assert not torch.equal(two[name], other[name])
    # every machine and every Python must agree on the streams
    assert stream_seed(1234, 1, "attention.dense.weight") == 344088345513784375


def test_each_parameter_is_the_beginning_of_its_stream() -> None:
    """Whatever is drawn beside it, and wherever it is drawn to."""
    model = small(pos_emb="rotary", init_method_std=0.03, output_layer_init_method="normal", num_layers=6)
    gpt = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3)
    for name, parameter in gpt.named_parameters():
        if parameter.dim() > 1:
            _, index, within = name.split(".", 2)
            generator = torch.Generator().manual_seed(stream_seed(3, int(index), within))
            assert torch.equal(parameter, torch.empty(parameter.shape).normal_(0, 0.03, generator=generator)), name


def test_what_a_checkpoint_brings_is_not_drawn() -> None:
    """NaN tells of what it did not bring; adapters it may lack."""
    arguments = {"vocab_size": VOCAB, "topology": topology_of(), "seed": 3}
    model = small(lora_rank=2)
    drawn = dict(GPT(model, **arguments).named_parameters())
    for name, parameter in GPT(model, **arguments, from_checkpoint=True).named_parameters():
        assert torch.equal(parameter, drawn[name]) if is_adapter(name) else parameter.isnan().all(), name


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("normal", 0.03),
        ("scaled_normal", 0.03 / math.sqrt(2 * 6)),
        ("small_init", math.sqrt(2 / (5 * 128))),
        ("wang_init", 2 / (6 * math.sqrt(128))),
        ("single_residual_scaled_normal", 0.03 / math.sqrt(6)),
    ],
)
def test_distributions_follow_gpt_neox(method: str, expected: float) -> None:
    model = small(
        num_layers=6, hidden_size=128, init_method_std=0.03, init_method=method, output_layer_init_method=method
    )
    assert standard_deviation(method, model, grows=True) == pytest.approx(expected)
    gpt = GPT(model, vocab_size=1024, topology=topology_of(), seed=3)
    for name, parameter in gpt.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.1 * expected, name


@pytest.mark.parametrize(("method", "gain"), [("orthogonal", math.sqrt(2)), ("scaled_orthogonal", math.sqrt(2 / 6))])
def test_orthogonal_matrices_are(method: str, gain: float) -> None:
    """In gpt-neox `orthogonal` binds its arguments to the wrong names."""
    model = small(num_layers=6, activation="swiglu", mlp_multiple_of=4, init_method=method)
    block = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3).layers[1]
    for linear in (block.attention.query_key_value, block.mlp.dense_h_to_4h):
        matrix = linear.weight.view(-1, 32) / gain
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["xavier_uniform", "xavier_normal"])
def test_xavier_keeps_the_variance_of_both_sides(method: str) -> None:
    model = small(hidden_size=128, init_method=method)
    block = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3).layers[1]
    weight = block.mlp.dense_h_to_4h.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (128 + 512)), rel=0.02)
    assert (weight.abs().max().item() <= math.sqrt(6 / (128 + 512))) == (method == "xavier_uniform")


def test_projections_to_the_residual_stream_have_their_own_initialiser() -> None:
    model = small(hidden_size=128, init_method="small_init", output_layer_init_method="wang_init")
    block = GPT(model, vocab_size=VOCAB, topology=topology_of(), seed=3).layers[1]
    for linear in (block.attention.dense, block.mlp.dense_4h_to_h):
        assert linear.weight.std().item() == pytest.approx(standard_deviation("wang_init", model, grows=True), rel=0.05)
    for linear in (block.attention.query_key_value, block.mlp.dense_h_to_4h):
        assert linear.weight.std().item() == pytest.approx(
            standard_deviation("small_init", model, grows=True), rel=0.05
        )


def test_state_dict_holds_the_parameters_and_nothing_else() -> None:
    gpt = GPT(small(pos_emb="rotary"), vocab_size=VOCAB, topology=topology_of(), seed=3)
    assert set(gpt.state_dict()) == {name for name, _ in gpt.named_parameters()}
