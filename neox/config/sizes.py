"""How big a model is: parameters and floating-point operations, from the sections alone. Counts are those of the built model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from neox.config.sections import Config, ModelConfig
from neox.config.shapes import (
    attention_windows,
    ffn_width,
    has_qkv_bias,
    has_reference,
    head_width,
    is_causal,
    is_gated,
    mixture_layers,
    qkv_width,
)


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model."""

    total: int  # as built, with the padded vocabulary
    total_unpadded: int  # with the true vocabulary
    non_embedding: int  # blocks and norms, without embeddings and output layer
    active: int  # of the total, those that a token passes through: all, except the experts that it is not sent to
    trainable: int  # of the total, those that training changes: all, or the adapters alone


def padded_vocab_size(model: ModelConfig, vocab_size: int) -> int:
    """The vocabulary as built: rounded up to a multiple of `make_vocab_size_divisible_by`, whatever the layout."""
    multiple = model.make_vocab_size_divisible_by
    return -(-vocab_size // multiple) * multiple


def true_vocab_size(model: ModelConfig, tokenizer_size: int) -> int:
    """The vocabulary without padding: the tokenizer's, or `vocab_size` where imported weights have more rows."""
    return model.vocab_size or tokenizer_size


def parameter_counts(model: ModelConfig, vocab_size: int) -> ParameterCounts:
    """Parameters of the whole model; a tied output layer counts once. vocab_size: without padding."""
    adapters = model.num_layers * _adapters(model).parameters
    non_embedding = adapters + sum(_block(model, mixture).parameters for mixture in mixture_layers(model))
    non_embedding += _norm(model, model.hidden_size)
    tables = 2 if model.no_weight_tying else 1
    rest = non_embedding + _positions(model)
    total = rest + tables * padded_vocab_size(model, vocab_size) * model.hidden_size
    idle = sum(mixture_layers(model)) * (model.moe_num_experts - model.moe_top_k) * _mlp(model).parameters
    return ParameterCounts(
        total=total,
        total_unpadded=rest + tables * vocab_size * model.hidden_size,
        non_embedding=non_embedding,
        active=total - idle,
        trainable=total if model.lora_rank is None else adapters,
    )


@dataclass(frozen=True)
class _Count:
    """Parameters of a block, or of a part of it."""

    matrices: int = 0  # all of them are split over the tensor-parallel group
    split: int = 0  # vectors that are split with the outputs or heads that they belong to
    whole: int = 0  # what every process of the group holds

    def __add__(self, other: _Count) -> _Count:
        return _Count(self.matrices + other.matrices, self.split + other.split, self.whole + other.whole)

    def __mul__(self, times: int) -> _Count:
        return _Count(self.matrices * times, self.split * times, self.whole * times)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.matrices + self.split + self.whole

    def on_one_of(self, tensor: int) -> int:
        """Those that each process of a tensor-parallel group holds."""
        return (self.matrices + self.split) // tensor + self.whole


def _block(model: ModelConfig, mixture: bool, experts: int | None = None) -> _Count:
    """Of one block; experts: those counted in a mixture of experts, all where it is not given."""
    hidden, qkv = model.hidden_size, qkv_width(model)
    norms = (1 if model.gpt_j_tied else 2) * _norm(model, hidden)
    head_norms = 2 * _norm(model, head_width(model)) if model.use_qk_layernorm else 0
    relative = model.num_attention_heads * model.rpe_num_buckets if model.pos_emb == "rpe" else 0
    attention = _Count(
        matrices=(qkv + hidden) * hidden,
        split=(qkv if has_qkv_bias(model) else 0) + relative,
        whole=norms + head_norms + (hidden if model.use_bias_in_attn_linear else 0),
    )
    if not mixture:
        return attention + _mlp(model)
    router = _Count(whole=model.moe_num_experts * hidden)
    return attention + router + _mlp(model) * (model.moe_num_experts if experts is None else experts)


def _mlp(model: ModelConfig) -> _Count:
    """Of one MLP, or one expert."""
    hidden, width = model.hidden_size, ffn_width(model)
    inner = 2 * width if is_gated(model) else width
    bias = model.use_bias_in_mlp
    return _Count(matrices=(inner + width) * hidden, split=inner if bias else 0, whole=hidden if bias else 0)


def _adapters(model: ModelConfig) -> _Count:
    """Of the adapters of one block."""
    hidden, width, count = model.hidden_size, ffn_width(model), _Count()
    shapes = {  # of the weights that they stand beside, (outputs, inputs); the first and the third are split by outputs
        "query_key_value": (qkv_width(model), hidden),
        "dense": (hidden, hidden),
        "dense_h_to_4h": (2 * width if is_gated(model) else width, hidden),
        "dense_4h_to_h": (hidden, width),
    }
    for name, (outputs, inputs) in shapes.items():
        if model.lora_rank is None or name not in model.lora_targets:
            continue
        split, whole = (outputs, inputs) if name in ("query_key_value", "dense_h_to_4h") else (inputs, outputs)
        count += _Count(split=model.lora_rank * split, whole=model.lora_rank * whole)
    return count


def _norm(model: ModelConfig, size: int) -> int:
    """Parameters of a norm over `size` dimensions."""
    return {"layernorm": 2 * size, "rmsnorm": size, "scalenorm": 1, "non_parametric_layernorm": 0}[model.norm]


def _positions(model: ModelConfig) -> int:
    """Parameters of learned positions."""
    return model.max_position_embeddings * model.hidden_size if model.pos_emb == "learned" else 0


def flops_per_token(model: ModelConfig, vocab_size: int) -> float:
    """Floating-point operations of a training step for one token: forward and backward.

    6 for each parameter that multiplies (4 where it is frozen), the output layer's and those of a token's experts among them, and
    the attention over the tokens that are seen: half of the sequence on average where it is global, at most the window where it
    has one. The forward pass of a reference (dpo) comes on top.
    """
    length = model.seq_length or model.max_position_embeddings
    multiplied = padded_vocab_size(model, vocab_size) * model.hidden_size
    for mixture, blocks in Counter(mixture_layers(model)).items():
        multiplied += blocks * _block(model, mixture, experts=model.moe_top_k).matrices
        multiplied += blocks * model.moe_num_experts * model.hidden_size if mixture else 0  # the router
    seen = sum(
        mean_visible_tokens(length, window) if is_causal(model) else length for window in attention_windows(model)
    )
    adapters = model.num_layers * _adapters(model).parameters
    attention = 16.0 if has_reference(model) else 12.0
    return weight_flops(model) * multiplied + 6.0 * adapters + attention * model.hidden_size * seen


def weight_flops(model: ModelConfig) -> float:
    """Floating-point operations of a training step for one token and one weight of the plain model: 2 forward, 2 for the
    gradient that goes on, 2 for the weight's own where it is trained, and 2 forward in a reference."""
    return (6.0 if model.lora_rank is None else 4.0) + (2.0 if has_reference(model) else 0.0)


def mean_visible_tokens(length: int, window: int | None) -> float:
    """Tokens that one token attends to, itself among them, on average over a sequence of that length."""
    window = min(window or length, length)
    return (window * (window + 1) / 2 + (length - window) * window) / length


def blocks_of_stage(layers: int, stages: int, stage: int) -> int:
    """Blocks of a pipeline stage; where they cannot be even, the first stages hold one more."""
    return layers // stages + (1 if stage < layers % stages else 0)


def layers_of_stage(model: ModelConfig, stages: int, stage: int) -> list[bool]:
    """Whether the MLP of each layer of a pipeline stage is a mixture of experts."""
    first = sum(blocks_of_stage(model.num_layers, stages, before) for before in range(stage))
    return mixture_layers(model)[first : first + blocks_of_stage(model.num_layers, stages, stage)]


def stage_parameters(config: Config, vocab_size: int, stage: int) -> int:
    """Parameters that one process of a stage holds, before ZeRO divides them."""
    model, tensor, stages = config.model, config.parallel.tensor_size, config.parallel.pipe_size
    layers = layers_of_stage(model, stages, stage)
    count = sum(
        blocks * _block(model, mixture, experts=0).on_one_of(tensor) for mixture, blocks in Counter(layers).items()
    )
    count += stage_experts(config, stage) + len(layers) * _adapters(model).on_one_of(tensor)
    table = padded_vocab_size(model, vocab_size) * model.hidden_size // tensor
    first, last = stage == 0, stage == stages - 1
    if first:
        count += table + _positions(model)
    if last:
        count += _norm(model, model.hidden_size) + (table if model.no_weight_tying or not first else 0)
    return count


def stage_trained_parameters(config: Config, vocab_size: int, stage: int) -> int:
    """Those of them that training changes."""
    model, parallel = config.model, config.parallel
    if model.lora_rank is None:
        return stage_parameters(config, vocab_size, stage)
    layers = layers_of_stage(model, parallel.pipe_size, stage)
    return len(layers) * _adapters(model).on_one_of(parallel.tensor_size)


def stage_experts(config: Config, stage: int) -> int:
    """Those of them in experts, which expert parallelism has divided."""
    model, parallel = config.model, config.parallel
    mixtures = sum(layers_of_stage(model, parallel.pipe_size, stage))
    return mixtures * (model.moe_num_experts // parallel.expert_size) * _mlp(model).on_one_of(parallel.tensor_size)
