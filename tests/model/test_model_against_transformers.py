"""Copied weights give transformers' logits: GPT-NeoX in both residual forms, and Llama."""

import pytest
import torch
from support.models import VOCAB, batch, small, topology_of
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from neox.config.shapes import ffn_width
from neox.model.gpt import GPT

TOLERANCE = {"rtol": 0, "atol": 2e-5}


def randomize(model: torch.nn.Module) -> None:
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2)


def copy(model: GPT, weights: dict[str, torch.Tensor]) -> GPT:
    """Fill the model with weights by name; padded rows of the vocabulary are left at 0."""
    own = dict(model.named_parameters())
    assert set(own) == set(weights)
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].zero_()
            own[name][: weight.shape[0]] = weight
    return model.eval()


@pytest.mark.parametrize("parallel_residual", [False, True])
@pytest.mark.parametrize("rotary_pct", [0.25, 1.0])
def test_gpt_neox(parallel_residual: bool, rotary_pct: float) -> None:
    reference = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=256,
            max_position_embeddings=16,
            rotary_pct=rotary_pct,
            use_parallel_residual=parallel_residual,
        )
    ).eval()
    randomize(reference)
    state = reference.state_dict()
    weights = {
        "layers.0.word_embeddings.weight": state["gpt_neox.embed_in.weight"],
        "layers.3.norm.weight": state["gpt_neox.final_layer_norm.weight"],
        "layers.3.norm.bias": state["gpt_neox.final_layer_norm.bias"],
        "layers.4.final_linear.weight": state["lm_head.weight"],
    }
    for layer in range(2):
        prefix = f"gpt_neox.layers.{layer}."
        weights |= {
            f"layers.{layer + 1}.{name.removeprefix(prefix)}": weight
            for name, weight in state.items()
            if name.startswith(prefix)
        }
    model = small(
        hidden_size=64,
        num_attention_heads=2,
        pos_emb="rotary",
        rotary_pct=rotary_pct,
        gpt_j_residual=parallel_residual,
        no_weight_tying=True,
    )
    gpt = copy(GPT(model, vocab_size=VOCAB, topology=topology_of()), weights)
    tokens, _, _ = batch()
    with torch.no_grad():
        logits = gpt(tokens)[..., :VOCAB].transpose(0, 1)
        torch.testing.assert_close(logits, reference(tokens).logits, **TOLERANCE)


def test_llama() -> None:
    model = small(
        pos_emb="rotary",
        norm="rmsnorm",
        rms_norm_epsilon=1e-6,
        activation="swiglu",
        mlp_multiple_of=4,
        use_bias_in_attn_linear=False,
        use_bias_in_mlp=False,
        no_weight_tying=True,
    )
    reference = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=ffn_width(model),
            max_position_embeddings=16,
            rms_norm_eps=1e-6,
        )
    ).eval()
    randomize(reference)
    state = reference.state_dict()
    weights = {
        "layers.0.word_embeddings.weight": state["model.embed_tokens.weight"],
        "layers.3.norm.weight": state["model.norm.weight"],
        "layers.4.final_linear.weight": state["lm_head.weight"],
    }
    for layer in range(2):
        theirs, ours = f"model.layers.{layer}.", f"layers.{layer + 1}."
        parts = [state[f"{theirs}self_attn.{part}_proj.weight"].view(4, 8, 32) for part in "qkv"]
        weights |= {
            f"{ours}input_layernorm.weight": state[f"{theirs}input_layernorm.weight"],
            f"{ours}post_attention_layernorm.weight": state[f"{theirs}post_attention_layernorm.weight"],
            f"{ours}attention.query_key_value.weight": torch.stack(parts, 1).reshape(96, 32),
            f"{ours}attention.dense.weight": state[f"{theirs}self_attn.o_proj.weight"],
            f"{ours}mlp.dense_h_to_4h.weight": torch.stack(
                [state[f"{theirs}mlp.gate_proj.weight"], state[f"{theirs}mlp.up_proj.weight"]]
            ),
            f"{ours}mlp.dense_4h_to_h.weight": state[f"{theirs}mlp.down_proj.weight"],
        }
    gpt = copy(GPT(model, vocab_size=VOCAB, topology=topology_of()), weights)
    tokens, _, _ = batch()
    with torch.no_grad():
        logits = gpt(tokens)[..., :VOCAB].transpose(0, 1)
        torch.testing.assert_close(logits, reference(tokens).logits, **TOLERANCE)
