"""Every family, both ways: imported weights give transformers' logits, and so do exported ones in transformers."""

import filecmp
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.families import CLASSES, EAGER, SEQ, VOCAB, assert_same_logits, loaded, saved, tokens

from neox.inference.decoding import Batch
from neox.inference.generator import Generator
from neox.inference.sampling import Sampling
from neox.interop.huggingface import export_folder, import_folder


def shape(**keys) -> dict:
    return {"vocab_size": VOCAB, "max_position_embeddings": 64, "hidden_size": 32, **keys}


def llama(**keys) -> dict:
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 56}
    return shape(**{**heads, **keys})


def scaled(rope_type: str, **keys) -> dict:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 500.0, "factor": 3.0, **keys}}


NEOX = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
NEO = {"num_layers": 3, "num_heads": 4, "intermediate_size": 72, "window_size": 5}
MODELS = {
    "neox": ("gpt_neox", shape(**NEOX)),
    "neox-sequential": ("gpt_neox", shape(**NEOX, rotary_pct=1.0, use_parallel_residual=False, attention_bias=False)),
    "neox-tied": ("gpt_neox", shape(**NEOX, tie_word_embeddings=True, hidden_act="gelu_new", rotary_emb_base=777)),
    "llama": ("llama", llama()),
    "llama-biases": ("llama", llama(attention_bias=True, mlp_bias=True, num_key_value_heads=4)),
    "llama-tied-mqa": ("llama", llama(tie_word_embeddings=True, num_key_value_heads=1, hidden_act="gelu")),
    "llama-linear": ("llama", llama(**scaled("linear"))),
    "llama-dynamic": ("llama", llama(**scaled("dynamic"), max_position_embeddings=16)),
    "llama-yarn": ("llama", llama(**scaled("yarn", original_max_position_embeddings=16, beta_fast=4.0))),
    "llama-3": (
        "llama",
        llama(**scaled("llama3", original_max_position_embeddings=32, low_freq_factor=1.0, high_freq_factor=4.0)),
    ),
    "mistral": ("mistral", llama(sliding_window=7)),
    "mistral-global": ("mistral", llama(sliding_window=None)),
    "mixtral": ("mixtral", llama(num_local_experts=3)),
    "mixtral-top3": ("mixtral", llama(num_local_experts=5, num_experts_per_tok=3, sliding_window=7)),
    "gpt2": ("gpt2", {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "neo": ("gpt_neo", shape(**NEO, attention_types=[[["global", "local"], 1], [["local"], 1]])),
    "neo-global": ("gpt_neo", shape(**NEO, attention_types=[[["global"], 3]])),
}


def assert_same_files(one: Path, other: Path, pattern: str) -> None:
    names = sorted(path.name for path in one.glob(pattern))
    assert names and names == sorted(path.name for path in other.glob(pattern))
    for name in names:
        assert filecmp.cmp(one / name, other / name, shallow=False), name


def round_trip(folder: Path, family: str, keys: dict) -> None:
    reference = saved(folder / "theirs", family, **keys)
    ids = tokens(vocab=keys["vocab_size"])
    import_folder(folder / "theirs", folder / "ours")
    assert_same_logits(loaded(folder / "ours"), reference, ids)
    export_folder(folder / "ours", folder / "back", model_type=family)
    again = CLASSES[family][1].from_pretrained(folder / "back", **EAGER).eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, reference(ids).logits), "moving weights changes no bit"
    import_folder(folder / "back", folder / "again")
    assert_same_files(folder / "ours" / "global_step0", folder / "again" / "global_step0", "state_*")
    export_folder(folder / "again", folder / "back2", model_type=family)
    assert_same_files(folder / "back", folder / "back2", "*")


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    family, keys = MODELS[name]
    round_trip(tmp_path, family, keys)


@pytest.mark.parametrize("name", ["neox", "llama-3", "llama-dynamic", "mistral", "mixtral", "gpt2", "neo"])
def test_greedy_generation_is_transformers(name: str, tmp_path: Path) -> None:
    family, keys = MODELS[name]
    longest = {"n_positions" if family == "gpt2" else "max_position_embeddings": 32 if "dynamic" in name else 96}
    # strong blocks, or a model would say one word again and again
    reference = saved(tmp_path / "theirs", family, block_std=0.6, **{**keys, **longest})
    import_folder(tmp_path / "theirs", tmp_path / "ours")
    generator = Generator(Batch(loaded(tmp_path / "ours"), vocab_size=VOCAB, max_positions=96, eod=None))
    prompt = tokens(1, 12)
    arguments = {"do_sample": False, "max_new_tokens": 64, "min_new_tokens": 64, "pad_token_id": 0}
    expected = reference.generate(prompt, attention_mask=torch.ones_like(prompt), eos_token_id=None, **arguments)
    (completion,) = generator.generate(prompt.tolist(), maximum_tokens=64, sampling=Sampling(), seeds=[0])
    assert completion.ids == expected[0, 12:].tolist()
    assert len(set(completion.ids)) > 3, "the model says more than one thing"


@st.composite
def odd_models(draw) -> tuple[str, dict]:
    """A family and a small, odd shape of it."""
    family = draw(st.sampled_from(list(CLASSES)))
    groups, size, half = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    if family not in ("llama", "mistral", "mixtral"):
        size = 1
    heads, width = groups * size, 2 * half
    keys = {
        "hidden_size": heads * width,
        "vocab_size": draw(st.integers(2, 300)),
        "tie_word_embeddings": draw(st.booleans()),
    }
    layers, inner, positions = draw(st.integers(1, 3)), draw(st.integers(1, 70)), draw(st.integers(SEQ, 50))
    if family == "gpt2":
        keys["n_embd"] = keys.pop("hidden_size")
        return family, {**keys, "n_layer": layers, "n_head": heads, "n_inner": inner, "n_positions": positions}
    keys |= {"intermediate_size": inner, "max_position_embeddings": positions}
    if family == "gpt_neo":
        kinds = draw(st.lists(st.sampled_from(["global", "local"]), min_size=layers, max_size=layers))
        window = draw(st.integers(1, 30))
        return family, {
            **keys,
            "num_layers": layers,
            "num_heads": heads,
            "attention_types": [[kinds, 1]],
            "window_size": window,
        }
    keys |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    if family == "gpt_neox":
        turning = draw(st.integers(1, half))
        return family, {**keys, "rotary_pct": turning / half, "use_parallel_residual": draw(st.booleans())}
    keys["num_key_value_heads"] = groups
    if family in ("mistral", "mixtral"):
        keys["sliding_window"] = draw(st.none() | st.integers(1, 30))
    if family == "mixtral":
        keys["num_local_experts"] = draw(st.integers(2, 6))
        keys["num_experts_per_tok"] = draw(st.integers(2, keys["num_local_experts"]))
    return family, keys


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(odd_models())
def test_odd_shapes(tmp_path_factory: pytest.TempPathFactory, case: tuple[str, dict]) -> None:
    family, keys = case
    round_trip(tmp_path_factory.mktemp("odd"), family, keys)
