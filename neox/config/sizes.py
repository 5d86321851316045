"""How big a model is: parameters and floating-point operations, from the sections alone. Counts are those of the built model."""

from __future__ import annotations

from dataclasses import dataclass

from neox.config.sections import Config, ModelConfig
from neox.config.shapes import attention_kinds, ffn_width, is_gated


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model."""

    total: int  # as built, with the padded vocabulary
    total_unpadded: int  # with the true vocabulary
    non_embedding: int  # blocks and norms, without embeddings and output layer


def padded_vocab_size(model: ModelConfig, vocab_size: int) -> int:
    """The vocabulary as built: rounded up to a multiple of `make_vocab_size_divisible_by`, whatever the layout."""
    multiple = model.make_vocab_size_divisible_by
    return -(-vocab_size // multiple) * multiple


def parameter_counts(model: ModelConfig, vocab_size: int) -> ParameterCounts:
    """Parameters of the whole model; a tied output layer counts once."""
    matrices, vectors = _block(model)
    non_embedding = model.num_layers * (matrices + vectors) + _norm(model)
    positions = model.max_position_embeddings * model.hidden_size if model.pos_emb == "learned" else 0
    tables = 2 if model.no_weight_tying else 1
    rest = non_embedding + positions
    return ParameterCounts(
        total=rest + tables * padded_vocab_size(model, vocab_size) * model.hidden_size,
        total_unpadded=rest + tables * vocab_size * model.hidden_size,
        non_embedding=non_embedding,
    )


def _block(model: ModelConfig) -> tuple[int, int]:
    """Parameters of one block: in its matrices, and in norms and biases."""
    hidden, width = model.hidden_size, ffn_width(model)
    inner = 2 * width if is_gated(model) else width
    matrices = 4 * hidden * hidden + (inner + width) * hidden
    attention_biases = 4 * hidden if model.use_bias_in_attn_linear else 0
    mlp_biases = inner + hidden if model.use_bias_in_mlp else 0
    return matrices, 2 * _norm(model) + attention_biases + mlp_biases


def _norm(model: ModelConfig) -> int:
    return model.hidden_size * (2 if model.norm == "layernorm" else 1)


def flops_per_token(model: ModelConfig, vocab_size: int) -> float:
    """Floating-point operations of a training step for one token: forward and backward.

    6 for each parameter that multiplies, the output layer's among them, and the attention over the tokens that are seen: half of
    the sequence on average where it is global, at most the window where it is local.
    """
    length = model.seq_length or model.max_position_embeddings
    matrices, _ = _block(model)
    multiplied = model.num_layers * matrices + padded_vocab_size(model, vocab_size) * model.hidden_size
    seen = sum(mean_visible_tokens(length, kind, model.window_size) for kind in attention_kinds(model))
    return 6.0 * multiplied + 12.0 * model.hidden_size * seen


def mean_visible_tokens(length: int, kind: str, window_size: int) -> float:
    """Tokens that one token attends to, itself among them, on average over a sequence of that length."""
    window = min(window_size, length) if kind == "local" else length
    return (window * (window + 1) / 2 + (length - window) * window) / length


def blocks_of_stage(layers: int, stages: int, stage: int) -> int:
    """Blocks of a pipeline stage; where they cannot be even, the first stages hold one more."""
    return layers // stages + (1 if stage < layers % stages else 0)


def stage_parameters(config: Config, vocab_size: int, stage: int) -> int:
    """Parameters that one process of a stage holds, before ZeRO divides them."""
    model, tensor, stages = config.model, config.parallel.tensor_size, config.parallel.pipe_size
    matrices, vectors = _block(model)
    split_biases = (3 * model.hidden_size if model.use_bias_in_attn_linear else 0) + (
        ffn_width(model) * (2 if is_gated(model) else 1) if model.use_bias_in_mlp else 0
    )
    block = (matrices + split_biases) // tensor + vectors - split_biases
    count = blocks_of_stage(model.num_layers, stages, stage) * block
    table = padded_vocab_size(model, vocab_size) * model.hidden_size // tensor
    first, last = stage == 0, stage == stages - 1
    if first:
        count += table + (model.max_position_embeddings * model.hidden_size if model.pos_emb == "learned" else 0)
    if last:
        count += _norm(model) + (table if model.no_weight_tying or not first else 0)
    return count
