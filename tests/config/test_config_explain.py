"""Answers about keys, and the schema that editors read."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from neox.config.errors import ConfigError
from neox.config.explain import explain, search
from neox.config.json_schema import json_schema
from neox.config.load import load
from neox.config.read import resolved
from neox.config.resolve import Surroundings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "a.yml").write_text(
        "num_layers: 4\nhidden_size: 64\nnum_attention_heads: 4\nmax_position_embeddings: 32\n"
        "train-micro-batch-size-per-gpu: 2\ntrain_iters: 10\npipe_parallel_size: 2\n"
        "optimizer: {params: {lr: 3e-4}}\nzero_optimization: {stage: 0}\n"
    )
    return resolved(load([tmp_path / "a.yml"], overrides=["min_lr=1e-5"]), Surroundings(dry_run=True))


@pytest.mark.parametrize(
    ("key", "value", "origin"),
    [
        ("hidden_size", "64", "a.yml:2:1"),
        ("train-micro-batch-size-per-gpu", "2", "a.yml:5:1"),
        ("optimizer.params.lr", "0.0003", "a.yml:8:22"),
        ("min_lr", "1e-05", "set at --set min_lr=1e-5"),
        ("optimizer.params.eps", "1e-08", "the default"),
        ("rotary_pct", "1.0", "the default"),
        ("train_batch_size", "2", "worked out from the other keys"),
        ("zero_optimization.stage", "1", "to 0, which the other keys made 1"),
    ],
)
def test_where_a_value_comes_from(run, key, value, origin):
    first, second, *_ = explain(key, run)
    assert first == f"{key.replace('-', '_')}: {value}"
    assert origin in second


def test_a_key_of_gpt_neox_that_is_none_here(run):
    assert explain("clip_grad", run) == ["clip_grad: called gradient_clipping here"]


def test_an_unknown_key_has_a_neighbour(run):
    with pytest.raises(ConfigError, match=r"hiden_size: there is no such key; did you mean hidden_size\?"):
        explain("hiden_size", run)


def test_search_reads_names_and_sentences():
    assert [key for key, _ in search("rotary frequencies")] == ["rotary_emb_base", "rotary_save_freqs_buffer"]
    assert "checkpoint_factor" in [key for key, _ in search("steps between checkpoints".replace("between ", ""))]
    assert search("no-such-word") == []


def test_the_schema_is_current():
    """Write it anew: python -m neox.config.json_schema > configs/schema.json"""
    assert json.loads((CONFIGS / "schema.json").read_text()) == json_schema()


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yml")), ids=lambda path: path.stem)
def test_the_schema_takes_every_shipped_config(path):
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_layer": 4},
        {"num_layers": "four"},
        {"num_layers": 0},
        {"precision": "fp8"},
        {"optimizer": {"type": "Adam", "lr": 0.1}},
        {"zero_optimization": {"stage": 4}},
    ],
)
def test_the_schema_finds_mistakes(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, json_schema())
