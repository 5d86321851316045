"""The families of transformers that we read and write: one table of names for each, used both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from neox.interop.keys import (
    ACTIVATIONS,
    ATTENTION_TYPES,
    EXPERTS,
    GATES,
    OPPOSITE,
    Key,
    KeyTable,
    dropouts,
    rope,
    sliding_window,
)
from neox.interop.shards import Heads, Row, Same, Stacked, Transposed, TransposedHeads


@dataclass(frozen=True)
class Family:
    """One kind of model of transformers.

    prefix: of every name but the head's. ends: modules outside the blocks. block: modules of a block, below `layers`; a * stands
    for the number of an expert.
    """

    model_type: str
    architecture: str
    table: KeyTable
    prefix: str
    layers: str
    ends: Mapping[str, Row]
    block: Mapping[str, Row]
    head: str = "lm_head"


_LAYER_NORM = {"norm": "layernorm"}
_GPT2_BLOCK_NORMS = {"input_layernorm": Same("ln_1"), "post_attention_layernorm": Same("ln_2")}
_GPT2_ENDS = {"word_embeddings": Same("wte"), "position_embeddings": Same("wpe"), "norm": Same("ln_f")}

GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    table=KeyTable(
        keys={
            "num_layers": Key("num_hidden_layers", 44),
            "hidden_size": Key("hidden_size", 6144),
            "num_attention_heads": Key("num_attention_heads", 64),
            "ffn_hidden_size": Key("intermediate_size", 24_576),
            "max_position_embeddings": Key("max_position_embeddings", 2048),
            "activation": Key("hidden_act", "gelu", ACTIVATIONS),
            "layernorm_epsilon": Key("layer_norm_eps", 1e-5),
            "gpt_j_residual": Key("use_parallel_residual", True),
            "use_bias_in_attn_linear": Key("attention_bias", True),
            "no_weight_tying": Key("tie_word_embeddings", False, OPPOSITE),
            "attention_dropout": Key("attention_dropout", 0.0),
            "hidden_dropout": Key("hidden_dropout", 0.0),
        },
        fixed={**_LAYER_NORM, "pos_emb": "rotary"},
        demanded={},
        compounds=(rope("rotary_emb_base", share_key="rotary_pct", default_share=0.25),),
    ),
    prefix="gpt_neox.",
    layers="layers",
    ends={"word_embeddings": Same("embed_in"), "norm": Same("final_layer_norm")},
    block={
        "input_layernorm": Same("input_layernorm"),
        "post_attention_layernorm": Same("post_attention_layernorm"),
        "attention.query_key_value": Same("attention.query_key_value"),  # interleaved by head, as ours
        "attention.dense": Same("attention.dense"),
        "mlp.dense_h_to_4h": Same("mlp.dense_h_to_4h"),
        "mlp.dense_4h_to_h": Same("mlp.dense_4h_to_h"),
    },
    head="embed_out",  # what transformers 4 reads, and 5 writes and reads
)

_LLAMA_KEYS = {
    "hidden_size": Key("hidden_size", 4096),
    "num_layers": Key("num_hidden_layers", 32),
    "num_attention_heads": Key("num_attention_heads", 32),
    "activation": Key("hidden_act", "silu", GATES),
    "rms_norm_epsilon": Key("rms_norm_eps", 1e-6),
    "no_weight_tying": Key("tie_word_embeddings", False, OPPOSITE),
    "attention_dropout": Key("attention_dropout", 0.0),
}
_LLAMA_FIXED = {"norm": "rmsnorm", "pos_emb": "rotary"}
_LLAMA_ENDS = {"word_embeddings": Same("embed_tokens"), "norm": Same("norm")}
_LLAMA_BLOCK = {
    "input_layernorm": Same("input_layernorm"),
    "post_attention_layernorm": Same("post_attention_layernorm"),
    "attention.query_key_value": Heads(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    "attention.dense": Same("self_attn.o_proj"),
    "mlp.dense_h_to_4h": Stacked(("mlp.gate_proj", "mlp.up_proj")),
    "mlp.dense_4h_to_h": Same("mlp.down_proj"),
}

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    table=KeyTable(
        keys={
            **_LLAMA_KEYS,
            "num_kv_heads": Key("num_key_value_heads"),
            "ffn_hidden_size": Key("intermediate_size", 11_008),
            "max_position_embeddings": Key("max_position_embeddings", 2048),
            "use_bias_in_attn_linear": Key("attention_bias", False),
            "use_bias_in_mlp": Key("mlp_bias", False),
        },
        fixed=_LLAMA_FIXED,
        demanded={},
        compounds=(rope("rope_theta"),),
    ),
    prefix="model.",
    layers="layers",
    ends=_LLAMA_ENDS,
    block=_LLAMA_BLOCK,
)

MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    table=KeyTable(
        keys={
            **_LLAMA_KEYS,
            "num_kv_heads": Key("num_key_value_heads", 8),
            "ffn_hidden_size": Key("intermediate_size", 14_336),
            "max_position_embeddings": Key("max_position_embeddings", 4096 * 32),
        },
        fixed={**_LLAMA_FIXED, "use_bias_in_attn_linear": False, "use_bias_in_mlp": False},
        demanded={"layer_types": None},
        compounds=(rope("rope_theta"), sliding_window(4096)),
    ),
    prefix="model.",
    layers="layers",
    ends=_LLAMA_ENDS,
    block=_LLAMA_BLOCK,
)

MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    table=KeyTable(
        keys={**MISTRAL.table.keys, "rms_norm_epsilon": Key("rms_norm_eps", 1e-5)},
        fixed=MISTRAL.table.fixed,
        demanded=MISTRAL.table.demanded,
        compounds=(rope("rope_theta", default_base=1e6), sliding_window(None), EXPERTS),
    ),
    prefix="model.",
    layers="layers",
    ends=_LLAMA_ENDS,
    block={
        **{module: row for module, row in _LLAMA_BLOCK.items() if not module.startswith("mlp.")},
        "mlp.router": Same("block_sparse_moe.gate"),
        "mlp.experts.*.dense_h_to_4h": Stacked(("block_sparse_moe.experts.*.w1", "block_sparse_moe.experts.*.w3")),
        "mlp.experts.*.dense_4h_to_h": Same("block_sparse_moe.experts.*.w2"),
    },
)

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    table=KeyTable(
        keys={
            "num_layers": Key("n_layer", 12),
            "hidden_size": Key("n_embd", 768),
            "num_attention_heads": Key("n_head", 12),
            "ffn_hidden_size": Key("n_inner"),
            "max_position_embeddings": Key("n_positions", 1024),
            "activation": Key("activation_function", "gelu_new", ACTIVATIONS),
            "layernorm_epsilon": Key("layer_norm_epsilon", 1e-5),
            "scale_attention": Key("scale_attn_weights", True),
            "no_weight_tying": Key("tie_word_embeddings", True, OPPOSITE),
        },
        fixed=_LAYER_NORM,
        demanded={"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        compounds=(dropouts("attn_pdrop", "resid_pdrop", "embd_pdrop", 0.1),),
    ),
    prefix="transformer.",
    layers="h",
    ends=_GPT2_ENDS,
    block={
        **_GPT2_BLOCK_NORMS,
        "attention.query_key_value": TransposedHeads("attn.c_attn"),
        "attention.dense": Transposed("attn.c_proj"),
        "mlp.dense_h_to_4h": Transposed("mlp.c_fc"),
        "mlp.dense_4h_to_h": Transposed("mlp.c_proj"),
    },
)

GPT_NEO = Family(
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    table=KeyTable(
        keys={
            "num_layers": Key("num_layers", 24),
            "hidden_size": Key("hidden_size", 2048),
            "num_attention_heads": Key("num_heads", 16),
            "ffn_hidden_size": Key("intermediate_size"),
            "max_position_embeddings": Key("max_position_embeddings", 2048),
            "activation": Key("activation_function", "gelu_new", ACTIVATIONS),
            "layernorm_epsilon": Key("layer_norm_epsilon", 1e-5),
            "no_weight_tying": Key("tie_word_embeddings", True, OPPOSITE),
        },
        fixed={**_LAYER_NORM, "scale_attention": False, "use_bias_in_qkv": False},
        demanded={},
        compounds=(ATTENTION_TYPES, dropouts("attention_dropout", "resid_dropout", "embed_dropout", 0.0)),
    ),
    prefix="transformer.",
    layers="h",
    ends=_GPT2_ENDS,
    block={
        **_GPT2_BLOCK_NORMS,
        "attention.query_key_value": Heads(("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj")),
        "attention.dense": Same("attn.attention.out_proj"),
        "mlp.dense_h_to_4h": Same("mlp.c_fc"),
        "mlp.dense_4h_to_h": Same("mlp.c_proj"),
    },
)

EXPERT = re.compile(r"\.\d+\.")  # its number, in the name of a module of a block

# in the order in which an export looks for one that can say the model
FAMILIES = {family.model_type: family for family in (GPT_NEOX, LLAMA, MISTRAL, MIXTRAL, GPT2, GPT_NEO)}


def their_parts(family: Family, num_layers: int, name: str) -> tuple[Row, tuple[str, ...]]:
    """The row of one of our weights (`layers.<global index>.<module>.<weight or bias>`), and their full names of its parts."""
    _, number, path = name.split(".", 2)
    module, _, suffix = path.rpartition(".")
    index = int(number)
    if index == num_layers + 2:
        return Same(family.head), (f"{family.head}.{suffix}",)
    if 1 <= index <= num_layers:
        row, place = family.block[EXPERT.sub(".*.", module)], f"{family.prefix}{family.layers}.{index - 1}."
    else:
        row, place = family.ends[module], family.prefix
    expert = (EXPERT.search(module) or [""])[0]
    return row, tuple(f"{place}{part.replace('.*.', expert)}.{suffix}" for part in row.names)
