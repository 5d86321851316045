"""Rules of the model alone."""

from __future__ import annotations

from typing import Any

from neox.config.errors import ConfigError
from neox.config.rules.rule import Complaints, Rule
from neox.config.sections import ModelConfig
from neox.config.shapes import FORMS, attention_kinds, is_gated


def heads_divide_hidden(config: Any) -> Complaints:
    hidden, heads = config.model.hidden_size, config.model.num_attention_heads
    if hidden % heads:
        yield "num_attention_heads hidden_size", f"{heads} heads do not divide hidden_size {hidden}"


def kv_heads_divide_heads(config: Any) -> Complaints:
    heads, shared, tensor = config.model.num_attention_heads, config.model.num_kv_heads, config.parallel.tensor_size
    if shared is None:
        return
    if heads % shared:
        yield "num_kv_heads num_attention_heads", f"{heads} heads cannot share {shared} heads of keys and values evenly"
    elif shared % tensor and heads % tensor == 0:
        yield (
            "model_parallel_size num_kv_heads",
            f"{tensor} processes cannot share {shared} heads of keys and values evenly",
        )


def attention_pattern_fits(config: Any) -> Complaints:
    try:
        attention_kinds(config.model)
    except ConfigError as error:
        sentence = str(error)
        yield "attention_config num_layers", sentence if FORMS in sentence else f"{sentence}: {FORMS}"


def rotary_dimensions_are_even(config: Any) -> Complaints:
    model = config.model
    if model.pos_emb != "rotary" or model.hidden_size % model.num_attention_heads:
        return
    width = model.hidden_size // model.num_attention_heads
    rotating = int(width * model.rotary_pct)
    if rotating < 2 or rotating % 2:
        yield (
            "rotary_pct num_attention_heads hidden_size",
            f"{model.rotary_pct:g} of the {width} dimensions of a head is {rotating}; rotation takes them in pairs, so this "
            "must be an even number above 0",
        )


def rotary_scaling_is_whole(config: Any) -> Complaints:
    model = config.model
    if model.rope_scaling is None:
        return
    scaling, kind = model.rope_scaling, model.rope_scaling.rope_type
    if model.pos_emb != "rotary":
        yield "rope_scaling", f"stretches rotary positions, and pos_emb is {model.pos_emb}: leave it out"
    elif kind == "default" and scaling.factor != 1:
        yield "rope_scaling.factor", "has no effect with rope_type default: give linear, dynamic, yarn or llama3"
    elif kind == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        yield (
            "rope_scaling.high_freq_factor rope_scaling.low_freq_factor",
            f"{scaling.high_freq_factor:g} must be above low_freq_factor {scaling.low_freq_factor:g}",
        )
    elif kind == "dynamic" and int(model.hidden_size // model.num_attention_heads * model.rotary_pct) <= 2:
        yield "rope_scaling.rope_type", "dynamic needs more than 2 dimensions that rotate in each head"


def relative_positions_have_buckets(config: Any) -> Complaints:
    model = config.model
    if model.pos_emb != "rpe":
        return
    if model.rpe_num_buckets < 2 or model.rpe_max_distance <= model.rpe_num_buckets // 2:
        yield (
            "rpe_num_buckets rpe_max_distance",
            f"half of the {model.rpe_num_buckets} buckets hold a distance each, so there must be 2 at least, and "
            f"rpe_max_distance {model.rpe_max_distance} must be above that half",
        )


def sinusoids_come_in_pairs(config: Any) -> Complaints:
    if config.model.pos_emb == "sinusoidal" and config.model.hidden_size % 2:
        yield "hidden_size pos_emb", f"{config.model.hidden_size} is odd, and sinusoidal positions come in pairs"


def tied_norm_is_for_parallel_residual(config: Any) -> Complaints:
    if config.model.gpt_j_tied and not config.model.gpt_j_residual:
        yield "gpt_j_tied", "is one norm for both branches of the parallel residual: give gpt_j_residual: true too"


def sequence_fits_positions(config: Any) -> Complaints:
    length, longest = config.model.seq_length, config.model.max_position_embeddings
    if length > longest:
        yield (
            "seq_length max_position_embeddings",
            f"{length} tokens are more than max_position_embeddings {longest}",
        )


def one_mlp_width(config: Any) -> Complaints:
    model = config.model
    if model.intermediate_size is not None and model.ffn_hidden_size is not None:
        yield (
            "ffn_hidden_size intermediate_size",
            f"{model.ffn_hidden_size} is the MLP's true width, and intermediate_size {model.intermediate_size} is "
            "gpt-neox's way to say it: give one of them",
        )


def multiple_is_for_gated_mlps(config: Any) -> Complaints:
    model = config.model
    if model.mlp_multiple_of != 1 and not is_gated(model):
        yield (
            "mlp_multiple_of",
            f"has no effect: it rounds the width of a gated MLP, and activation is {model.activation}",
        )


def tokens_have_enough_experts(config: Any) -> Complaints:
    chosen, experts = config.model.moe_top_k, config.model.moe_num_experts
    if chosen > experts:
        yield "moe_top_k moe_num_experts", f"{chosen} experts for each token are more than moe_num_experts {experts}"


def mup_knows_its_base(config: Any) -> Complaints:
    model = config.model
    if not model.use_mup:
        return
    width, heads = model.mup_base_hidden_size, model.mup_base_num_attention_heads
    for key, value in (("mup_base_hidden_size", width), ("mup_base_num_attention_heads", heads)):
        if value is None:
            yield "use_mup", f"{key} is missing: give the width and heads of the model that was tuned"
    if width is not None and heads is not None and width % heads:
        yield (
            "mup_base_num_attention_heads mup_base_hidden_size",
            f"{heads} heads do not divide mup_base_hidden_size {width}",
        )


def mup_knows_every_part(config: Any) -> Complaints:
    model, kind = config.model, config.optimization.optimizer.type
    if not model.use_mup:
        return
    if kind == "SGD":
        yield "optimizer.type use_mup", "the learning rates of use_mup are those of Adam and AdamW"
    if model.moe_num_experts > 1:
        yield "moe_num_experts use_mup", "use_mup has no rule for the router of a mixture of experts"
    if model.lora_rank is not None:
        yield "lora_rank use_mup", "use_mup has no rule for adapters"
    for key in ("init_method", "output_layer_init_method"):
        if (method := getattr(model, key)).startswith("xavier") or method.endswith("orthogonal"):
            yield f"{key} use_mup", f"{method} sets a scale by itself, which use_mup does: give normal or scaled_normal"


def mup_numbers_are_for_mup(config: Any) -> Complaints:
    model = config.model
    fields = ((key, field) for key, field in ModelConfig.model_fields.items() if key.startswith("mup_"))
    given = [key for key, field in fields if getattr(model, key) != field.default]
    if given and not model.use_mup:
        yield given[0], "has no effect: use_mup is false"


RULES: list[Rule] = [
    heads_divide_hidden,
    kv_heads_divide_heads,
    attention_pattern_fits,
    rotary_dimensions_are_even,
    rotary_scaling_is_whole,
    relative_positions_have_buckets,
    sinusoids_come_in_pairs,
    tied_norm_is_for_parallel_residual,
    sequence_fits_positions,
    one_mlp_width,
    tokens_have_enough_experts,
    mup_knows_its_base,
    mup_knows_every_part,
]
TRAINING_WARNINGS: list[Rule] = [multiple_is_for_gated_mlps, mup_numbers_are_for_mup]
