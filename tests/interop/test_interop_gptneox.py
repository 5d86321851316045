"""Checkpoints of gpt-neox, written here as its own code lays them out, give the logits of the model that they hold."""

from pathlib import Path

import numpy
import pytest
import torch
import yaml
from support.families import assert_same_logits, loaded, random_model, tokens

from neox.config.errors import ConfigError
from neox.interop.gptneox import import_gptneox

SHAPE = {"vocab_size": 512, "hidden_size": 32, "max_position_embeddings": 64}
OURS = {"num_layers": 2, "num_attention_heads": 4, "pos_emb": "rotary", "no_weight_tying": True}
NEOX = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, **SHAPE}
LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "rms_norm_eps": 1e-6, **SHAPE}


def split(tensor: torch.Tensor, ranks: int, dim: int = 0) -> list[torch.Tensor]:
    return [part.clone() for part in tensor.chunk(ranks, dim)]


def gpt_neox_layers(model, ranks: int, parallel: bool) -> dict[int, list[dict]]:
    """Index -> the state of each rank, with the names of today's gpt-neox."""
    state = model.state_dict()
    layers = {0: [{"word_embeddings.weight": part} for part in split(state["gpt_neox.embed_in.weight"], ranks)]}
    for layer in range(2):
        shards: list[dict] = [{} for _ in range(ranks)]
        prefix = f"gpt_neox.layers.{layer}."
        for name in [name.removeprefix(prefix) for name in state if name.startswith(prefix)]:
            whole = state[prefix + name]
            theirs = name.replace("dense_h_to_4h", "linear1").replace("dense_4h_to_h", "linear2")
            if name in ("attention.dense.weight", "mlp.dense_4h_to_h.weight"):
                parts = split(whole, ranks, dim=1)
            elif name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias") and parallel:
                first = torch.randn(whole.shape)  # the ranks' biases are added together
                parts = [first, whole - first] if ranks == 2 else [whole]
            elif "norm" in name or name in ("attention.dense.bias", "mlp.dense_4h_to_h.bias"):
                parts = [whole] * ranks
            else:
                parts = split(whole, ranks)
            for shard, part in zip(shards, parts):
                shard[theirs] = part
        layers[layer + 2] = shards
    norm = {f"norm.{name}": state[f"gpt_neox.final_layer_norm.{name}"] for name in ("weight", "bias")}
    layers[5] = [norm] * ranks
    layers[6] = [{"final_linear.weight": part} for part in split(state["lm_head.weight"], ranks)]
    return layers


def llama_layers(model, ranks: int, old: bool) -> dict[int, list[dict]]:
    """The same for gated MLPs and rmsnorm; heads that share keys lie one after the other on each rank."""
    state = model.state_dict()
    layers = {0: [{"word_embeddings.weight": part} for part in split(state["model.embed_tokens.weight"], ranks)]}
    for layer in range(2):
        get = {name: state[f"model.layers.{layer}.{name}.weight"] for name in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
        )}  # fmt: skip
        qkv = [split(get[f"self_attn.{name}_proj"], ranks) for name in "qkv"]
        gates, values = split(get["mlp.gate_proj"], ranks), split(get["mlp.up_proj"], ranks)
        outs, downs = split(get["self_attn.o_proj"], ranks, 1), split(get["mlp.down_proj"], ranks, 1)
        shards = []
        for rank in range(ranks):
            heads = torch.cat([part[rank] for part in qkv])
            if get["self_attn.k_proj"].shape == get["self_attn.q_proj"].shape:
                heads = torch.stack([part[rank].view(-1, 8, 32) for part in qkv], 1).reshape(-1, 32)
            shard = {"attention.query_key_value.weight": heads, "attention.dense.weight": outs[rank]}
            if old:
                mlp = {"mlp.w1.weight": gates[rank], "mlp.w3.weight": values[rank], "mlp.w2.weight": downs[rank]}
            else:
                mlp = {"mlp.linear1.weight": torch.cat([values[rank], gates[rank]]), "mlp.linear2.weight": downs[rank]}
            norms = {f"{name}.scale": get[name] for name in ("input_layernorm", "post_attention_layernorm")}
            shards.append(shard | mlp | norms | {"attention.rotary_emb.inv_freq": torch.ones(4)})
        layers[layer + 2] = shards
    layers[5] = [{"norm.scale": state["model.norm.weight"]}] * ranks
    layers[6] = [{"final_linear.weight": part} for part in split(state["lm_head.weight"], ranks)]
    return layers


def write(folder: Path, layers: dict[int, list[dict]], pipeline: bool, **keys) -> tuple[Path, Path]:
    """A `global_step1` folder and its YAML file."""
    checkpoint, config = folder / "global_step1", folder / "model.yml"
    checkpoint.mkdir()
    ranks = len(layers[0])
    for rank in range(ranks):
        if pipeline:
            for index, shards in layers.items():
                torch.save(shards[rank], checkpoint / f"layer_{index:02d}-model_{rank:02d}-model_states.pt")
        names = {
            f"sequential.{index}.{name}": part
            for index, shards in layers.items()
            for name, part in shards[rank].items()
        }
        random_state = {"np_rng_state": numpy.random.RandomState(1).get_state(), "iteration": 1}
        torch.save(
            {"module": None if pipeline else names, **random_state}, checkpoint / f"mp_rank_{rank:02d}_model_states.pt"
        )
    values = {**OURS, "hidden_size": 32, "max_position_embeddings": 64, "tokenizer_type": "CharLevelTokenizer", **keys}
    values |= {"model-parallel-size": ranks, "pipe-parallel-size": 2 if pipeline else 0}
    config.write_text(yaml.safe_dump(values))
    return checkpoint, config


def check(folder: Path, checkpoint: Path, config: Path, reference) -> None:
    import_gptneox(checkpoint, [config], folder / "ours")
    assert_same_logits(loaded(folder / "ours"), reference, tokens())


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("pipeline", [True, False], ids=["layers", "sequential"])
@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "sequential-residual"])
def test_gpt_neox(ranks: int, pipeline: bool, parallel: bool, tmp_path: Path) -> None:
    reference = random_model("gpt_neox", 0.15, **NEOX, use_parallel_residual=parallel)
    keys = {"rotary_pct": 0.25, "gpt_j_residual": parallel, "intermediate_size": 96}
    check(tmp_path, *write(tmp_path, gpt_neox_layers(reference, ranks, parallel), pipeline, **keys), reference)


LLAMA_KEYS = {
    "norm": "rmsnorm",
    "rms_norm_epsilon": 1e-6,
    "activation": "swiglu",
    "intermediate_size": 120,
    "use_bias_in_attn_linear": False,
    "use_bias_in_mlp": False,
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("kv_heads", "old"), [(4, False), (4, True), (2, False)])
def test_llama(ranks: int, kv_heads: int, old: bool, tmp_path: Path) -> None:
    reference = random_model("llama", 0.15, **LLAMA, num_key_value_heads=kv_heads)
    keys = {**LLAMA_KEYS, "num_kv_heads": kv_heads}
    check(tmp_path, *write(tmp_path, llama_layers(reference, ranks, old), True, **keys), reference)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"num_layers": 1}, "has no layer 4, which the configuration asks for"),
        ({"intermediate_size": 240}, "the weights make [2, 40, 32], and the configuration asks for [2, 80, 32]"),
        ({"use_bias_in_mlp": True}, "lacks mlp.linear1.bias"),
        (
            {"gpt_j_residual": True, "gpt_j_tied": True},
            "post_attention_layernorm.scale of layer 2 and 1 more have no place",
        ),
        ({"num_layers": "many"}, "num_layers: wants a whole number"),
        (
            {"use_mup": True, "mup_base_hidden_size": 16, "mup_base_num_attention_heads": 4},
            "use_mup: gpt-neox's muP scales attention in another way",
        ),
    ],
)
def test_another_model_is_refused(keys: dict, words: str, tmp_path: Path) -> None:
    reference = random_model("llama", 0.15, **LLAMA, num_key_value_heads=4)
    checkpoint, config = write(tmp_path, llama_layers(reference, 1, old=False), True, **{**LLAMA_KEYS, **keys})
    with pytest.raises(ConfigError) as caught:
        import_gptneox(checkpoint, [config], tmp_path / "ours")
    assert words in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step1", "model.yml"]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.yml").write_text(yaml.safe_dump({**OURS, "hidden_size": 32, "max_position_embeddings": 64}))
    with pytest.raises(ConfigError, match="holds no model of gpt-neox"):
        import_gptneox(tmp_path, [tmp_path / "model.yml"], tmp_path / "ours")
