"""Shapes that follow from the model's section: what each layer's attention sees, heads and biases, the width of the MLP.

Knows nothing about vocabularies or processes.
"""

from __future__ import annotations

from typing import Any

from neox.config.errors import ConfigError
from neox.config.sections import ModelConfig

# logits that the loss works on at a time: about the size of a core's cache on a CPU; on a GPU enough to fill it
LOSS_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 27}
GATED_ACTIVATIONS = frozenset({"geglu", "swiglu", "reglu", "bilinear", "glu"})
KINDS = {"global": "global", "flash": "global", "local": "local"}  # as written -> what is built
FORMS = 'write [[["global", "local"], 6]], [[["global"], "all"]] or one word for each layer'


def attention_kinds(model: ModelConfig) -> list[str]:
    """The attention of each layer, "global" or "local"; `ConfigError` where attention_config cannot be read."""
    if model.attention_config is None:
        return ["global"] * model.num_layers
    words = _expand(model.attention_config, model.num_layers)
    for word in words:
        if word not in KINDS:
            raise ConfigError(f"{word!r} is no kind of attention here; the kinds are {', '.join(KINDS)}")
    if len(words) != model.num_layers:
        raise ConfigError(f"names the attention of {len(words)} layers, but num_layers is {model.num_layers}")
    return [KINDS[word] for word in words]


def attention_windows(model: ModelConfig) -> list[int | None]:
    """Tokens that one token sees in each layer, itself among them; None where it sees all before it."""
    everywhere = None if model.sliding_window_width is None else model.sliding_window_width + 1
    return [model.window_size if kind == "local" else everywhere for kind in attention_kinds(model)]


def is_causal(model: ModelConfig) -> bool:
    """Whether a token sees only what comes before it: where the next one is predicted."""
    return model.train_impl != "mlm"


def has_reference(model: ModelConfig) -> bool:
    """Whether what the model computes is compared with what its first weights computed."""
    return model.train_impl == "dpo" and not model.dpo_reference_free


def tokens_per_sample(model: ModelConfig) -> int:
    """Tokens of a sample: of a row, or of the two rows of a pair."""
    return (model.seq_length or model.max_position_embeddings) * (2 if model.train_impl == "dpo" else 1)


def mixture_layers(model: ModelConfig) -> list[bool]:
    """Whether the MLP of each layer is a mixture of experts."""
    return [model.moe_num_experts > 1 and layer % model.moe_expert_interval == 0 for layer in range(model.num_layers)]


def head_width(model: ModelConfig) -> int:
    """Dimensions of one attention head."""
    return model.hidden_size // model.num_attention_heads


def kv_heads(model: ModelConfig) -> int:
    """Heads of keys and values."""
    return model.num_kv_heads or model.num_attention_heads


def qkv_width(model: ModelConfig) -> int:
    """Outputs of the projection to queries, keys and values."""
    return (model.num_attention_heads + 2 * kv_heads(model)) * head_width(model)


def has_qkv_bias(model: ModelConfig) -> bool:
    """Whether queries, keys and values have biases."""
    return model.use_bias_in_attn_linear if model.use_bias_in_qkv is None else model.use_bias_in_qkv


def _expand(pattern: list[Any], layers: int) -> list[str]:
    """[[["global", "local"], 2]] -> global, local, global, local; a flat list of words stays as it is."""
    if all(isinstance(word, str) for word in pattern):
        return list(pattern)
    expanded: list[str] = []
    for entry in pattern:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list) and entry[0]):
            raise ConfigError(f"{entry!r} is not a pair of words and a count: {FORMS}")
        words, count = entry
        if not all(isinstance(word, str) for word in words):
            raise ConfigError(f"{words!r} is not a list of words: {FORMS}")
        if count == "all":
            rest = layers - len(expanded)
            expanded += [words[index % len(words)] for index in range(rest)]
        elif isinstance(count, int) and not isinstance(count, bool) and 0 < count <= layers:
            expanded += words * count
        else:
            raise ConfigError(f'{count!r} is not a count between 1 and num_layers ({layers}), nor "all": {FORMS}')
    return expanded


def is_gated(model: ModelConfig) -> bool:
    """Whether the MLP multiplies its activation by a second projection of the same width."""
    return model.activation in GATED_ACTIVATIONS


def ffn_width(model: ModelConfig) -> int:
    """The true inner width of the MLP.

    `intermediate_size` has gpt-neox's meaning: a gated MLP is a third as wide, rounded up to `mlp_multiple_of`.
    """
    if model.ffn_hidden_size is not None:
        return model.ffn_hidden_size
    width = 4 * model.hidden_size if model.intermediate_size is None else model.intermediate_size
    if not is_gated(model):
        return width
    return -(-width // (3 * model.mlp_multiple_of)) * model.mlp_multiple_of
