"""Configuration keys of transformers and ours: both ways by one table, and refused where one side cannot say it.

Nothing is approximated: what a family does not know is found by reading back what would be written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neox.config.errors import ConfigError
from neox.config.sections import ModelConfig, RopeScaling
from neox.config.shapes import attention_windows, ffn_width, has_qkv_bias, head_width, is_causal, kv_heads

OPPOSITE = {True: False, False: True}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
}
GATES = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "relu": "reglu", "sigmoid": "glu"}

# keys that do not change what the network computes from its weights
ASIDE = {
    "seq_length",
    "vocab_size",
    "make_vocab_size_divisible_by",
    "init_method",
    "output_layer_init_method",
    "init_method_std",
    "mup_init_scale",
    "attention_dropout",
    "hidden_dropout",
    "moe_train_capacity_factor",
    "moe_jitter_eps",
    "moe_loss_coeff",
    "dpo_beta",
    "dpo_reference_free",
    # an export merges adapters into the weights
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
}
# keys that one of the facts below says
SAID_BY_FACTS = {"intermediate_size", "mlp_multiple_of", "attention_config", "window_size", "sliding_window_width"}
# keys that only speak where another key has this value
ONLY_WITH = {
    "layernorm_epsilon": ("norm", ("layernorm", "non_parametric_layernorm")),
    "rms_norm_epsilon": ("norm", ("rmsnorm",)),
    "scalenorm_epsilon": ("norm", ("scalenorm",)),
    "rotary_pct": ("pos_emb", ("rotary",)),
    "rotary_emb_base": ("pos_emb", ("rotary",)),
    "rope_scaling": ("pos_emb", ("rotary",)),
    "rpe_num_buckets": ("pos_emb", ("rpe",)),
    "rpe_max_distance": ("pos_emb", ("rpe",)),
    **{key: ("use_mup", (True,)) for key in ModelConfig.model_fields if key.startswith("mup_")},
}


@dataclass(frozen=True)
class Key:
    """Their name of one of our keys, their default, and their values where these differ from ours."""

    name: str
    default: Any = None
    values: Mapping[Any, Any] | None = None


Values = dict[str, Any]


@dataclass(frozen=True)
class Compound:
    """Keys of ours and theirs that do not map one to one: a function for each direction."""

    read: Callable[[Mapping[str, Any]], Values]  # their config.json -> our keys
    write: Callable[[ModelConfig], Values]  # our model -> their keys


@dataclass(frozen=True)
class KeyTable:
    """The keys of one family. fixed: what all its models have in our words. demanded: their keys that must have a value."""

    keys: Mapping[str, Key]
    fixed: Mapping[str, Any]
    demanded: Mapping[str, Any]
    compounds: tuple[Compound, ...] = ()


def read_model(config: Mapping[str, Any], table: KeyTable) -> ModelConfig:
    """Our model of their config.json; ConfigError names every key that we cannot say."""
    complaints = [
        f"{name}: {config[name]!r} is not supported; only {value!r} is"
        for name, value in table.demanded.items()
        if config.get(name, value) != value
    ]
    values = dict(table.fixed)
    for ours, key in table.keys.items():
        value = config.get(key.name, key.default)
        if key.values is not None and value not in key.values:
            known = ", ".join(map(str, key.values))
            complaints.append(f"{key.name}: {value!r} is not supported; known are {known}")
        else:
            values[ours] = value if key.values is None else key.values[value]
    for compound in table.compounds:
        try:
            values |= compound.read(config)
        except ConfigError as error:
            complaints += error.complaints
    if complaints:
        raise ConfigError(complaints)
    try:
        model = ModelConfig(**values)
    except ValueError as error:
        raise ConfigError(f"config.json: does not describe a model that can be built ({error})") from error
    width = config.get("head_dim") or head_width(model)
    if width != head_width(model) or model.hidden_size % model.num_attention_heads:
        raise ConfigError(
            f"head_dim: {width} is not supported; heads must be hidden_size / num_attention_heads = {head_width(model)} wide"
        )
    return model


def write_config(model: ModelConfig, table: KeyTable) -> Values:
    """Their keys for a model; right only where `differences` finds none."""
    known = model.model_dump() | facts(model)
    config = dict(table.demanded)
    for ours, key in table.keys.items():
        value = known.get(ours)
        if key.values is not None:
            value = next((theirs for theirs, mine in key.values.items() if mine == value), key.default)
        config[key.name] = value
    for compound in table.compounds:
        config |= compound.write(model)
    return config


def differences(model: ModelConfig, table: KeyTable) -> list[str]:
    """Our keys that a family cannot say, each with its value and the one that the family would have instead."""
    ours = facts(model)
    try:
        theirs = facts(read_model(write_config(model, table), table))
    except ConfigError as error:
        return list(error.complaints)
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return [f"{name}: {_shown(ours.get(name))} cannot be said there, only {_shown(theirs.get(name))}" for name in names]


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def facts(model: ModelConfig) -> Values:
    """What the network computes, key by key, the same for two models that compute the same."""
    values = {key: value for key, value in model.model_dump().items() if key not in ASIDE | SAID_BY_FACTS}
    values |= {
        "train_impl": "normal" if is_causal(model) else model.train_impl,
        "ffn_hidden_size": ffn_width(model),
        "num_kv_heads": kv_heads(model),
        "use_bias_in_qkv": has_qkv_bias(model),
        "attention_config": attention_windows(model),
        "rope_scaling": _rope_facts(model),
        "moe_expert_interval": model.moe_expert_interval if model.moe_num_experts > 1 else 1,
    }
    return {
        key: value
        for key, value in values.items()
        if key not in ONLY_WITH or getattr(model, ONLY_WITH[key][0]) in ONLY_WITH[key][1]
    }


# what each formula of rotary scaling reads besides the factor
ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "dynamic": (),
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}


def _rope_facts(model: ModelConfig) -> Values | None:
    scaling = model.rope_scaling
    if scaling is None or scaling.rope_type == "default":
        return None
    known: Values = {"rope_type": scaling.rope_type, "factor": scaling.factor}
    known |= {name: getattr(scaling, name) for name in ROPE_KEYS[scaling.rope_type]}
    if scaling.rope_type != "linear":
        known["original_max_position_embeddings"] = (
            scaling.original_max_position_embeddings or model.max_position_embeddings
        )
    return {name: value for name, value in known.items() if value is not None}


def rope(
    base_key: str, *, default_base: float = 10_000.0, share_key: str | None = None, default_share: float = 1.0
) -> Compound:
    """Rotary positions: `rope_parameters` of transformers 5, and the keys that 4 reads, `rope_scaling` among them."""

    def read(config: Mapping[str, Any]) -> Values:
        given = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
        old_kind = given.pop("type", "default")
        kind = given.pop("rope_type", old_kind)
        values: Values = {
            "rotary_emb_base": given.pop("rope_theta", config.get(base_key, default_base)),
            "rotary_pct": given.pop("partial_rotary_factor", config.get(share_key, default_share)),
        }
        if kind == "default":
            return values
        longest = config.get("max_position_embeddings")
        trained = given.get("original_max_position_embeddings") or longest
        if given.get("factor") is None:
            given["factor"] = longest / trained
        if kind == "dynamic":  # there, max_position_embeddings is the length before the scaling
            given["original_max_position_embeddings"] = longest
            values["max_position_embeddings"] = int(longest * given["factor"])
        scaling = {name: value for name, value in given.items() if value is not None}
        try:
            return values | {"rope_scaling": RopeScaling(rope_type=kind, **scaling)}
        except ValueError as error:
            shown = {"rope_type": kind, **given}
            raise ConfigError(f"rope_parameters: {shown} is not supported ({error})") from error

    def write(model: ModelConfig) -> Values:
        given = _rope_facts(model) or {"rope_type": "default"}
        longest = model.max_position_embeddings
        if given["rope_type"] == "dynamic":
            longest = given.pop("original_max_position_embeddings")
        old = {base_key: model.rotary_emb_base, "rope_scaling": None if given["rope_type"] == "default" else given}
        share = {} if share_key is None else {"partial_rotary_factor": model.rotary_pct}
        return {
            **old,
            **({} if share_key is None else {share_key: model.rotary_pct}),
            "rope_parameters": {**given, **share, "rope_theta": model.rotary_emb_base},
            "max_position_embeddings": longest,
        }

    return Compound(read, write)


def _read_types(config: Mapping[str, Any]) -> Values:
    return {
        "attention_config": config.get("attention_types", [[["global", "local"], 12]]),
        "window_size": config.get("window_size", 256),
    }


def _write_types(model: ModelConfig) -> Values:
    windows = attention_windows(model)
    kinds = ["global" if window is None else "local" for window in windows]
    widths = {window for window in windows if window is not None}
    repeats = len(kinds) // 2
    two = kinds[:2]
    short = [[two, repeats]] if two * repeats == kinds else [[kinds, 1]]
    return {"attention_types": short, "attention_layers": kinds, "window_size": max(widths, default=256)}


ATTENTION_TYPES = Compound(_read_types, _write_types)


def sliding_window(default: int | None) -> Compound:
    """One window for all layers, or none."""

    def read(config: Mapping[str, Any]) -> Values:
        window = config.get("sliding_window", default)
        return {} if window is None else {"attention_config": [[["local"], "all"]], "window_size": window}

    def write(model: ModelConfig) -> Values:
        return {"sliding_window": attention_windows(model)[0]}

    return Compound(read, write)


def _read_experts(config: Mapping[str, Any]) -> Values:
    names = {"moe_num_experts": ("num_local_experts", 8), "moe_top_k": ("num_experts_per_tok", 2)}
    values = {ours: config.get(name, default) for ours, (name, default) in names.items()}
    if values["moe_num_experts"] == 1:
        raise ConfigError("num_local_experts: 1 is not supported: a single expert is an MLP here, without a router")
    if values["moe_top_k"] == 1:
        raise ConfigError(
            "num_experts_per_tok: 1 is not supported: a single expert counts as much as its probability here, and fully there"
        )
    return values


def _write_experts(model: ModelConfig) -> Values:
    # one expert cannot be said: reading this back finds another number
    return {"num_local_experts": max(2, model.moe_num_experts), "num_experts_per_tok": max(2, model.moe_top_k)}


EXPERTS = Compound(_read_experts, _write_experts)


def dropouts(attention: str, residual: str, embedding: str, default: float) -> Compound:
    """Dropout of embeddings and residual stream, which are two keys there and one here: the residual stream's counts."""

    def read(config: Mapping[str, Any]) -> Values:
        return {
            "attention_dropout": config.get(attention, default),
            "hidden_dropout": config.get(residual, default),
        }

    def write(model: ModelConfig) -> Values:
        return {attention: model.attention_dropout, residual: model.hidden_dropout, embedding: model.hidden_dropout}

    return Compound(read, write)
