"""Values are read by the type of their key."""

import pytest

from neox.config.errors import ConfigError
from neox.config.load import load_text
from neox.config.read import resolved
from neox.config.resolve import Surroundings

BASE = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "train_micro_batch_size_per_gpu": 1,
    "train_iters": 10,
}


def read(text: str):
    names = {line.partition(":")[0] for line in text.splitlines()}
    base = "".join(f"{key}: {value}\n" for key, value in BASE.items() if key not in names)
    return resolved(load_text(text + "\n" + base, "t.yml"), Surroundings(dry_run=True)).config


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("min_lr: 1e-4", "optimization", "min_lr", 1e-4),
        ("min_lr: 1.e-4", "optimization", "min_lr", 1e-4),
        ("min_lr: .0001", "optimization", "min_lr", 1e-4),
        ("weight_decay: 0", "optimization", "weight_decay", 0.0),
        ("rotary_pct: 1", "model", "rotary_pct", 1.0),
        ("seed: 1_000", "run", "seed", 1000),
        ("train_iters: 1e3", "batch", "train_iters", 1000),
        ("no_weight_tying: True", "model", "no_weight_tying", True),
        ("no_weight_tying: yes", "model", "no_weight_tying", True),
        ("wandb_run_name: 125", "monitor", "wandb_run_name", "125"),
        ("wandb_run_name: 2024-01-01", "monitor", "wandb_run_name", "2024-01-01"),
        ("wandb_run_name: 12:30:45", "monitor", "wandb_run_name", "12:30:45"),
        ("wandb_run_name: 1e5", "monitor", "wandb_run_name", "1e5"),
        ('load: "None"', "checkpoint", "load", "None"),
        ("load: null", "checkpoint", "load", None),
        ("seed: null", "run", "seed", 1234),
        ("split: 969, 30, 1", "data", "split", "969, 30, 1"),
        ("extra_save_iters: [0, 1, 2]", "checkpoint", "extra_save_iters", [0, 1, 2]),
        ("precision: bfloat16", "precision", "precision", "bf16"),
        ("precision: bf16", "precision", "precision", "bf16"),
        ("fp16: {}", "precision", "precision", "fp16"),
        ("fp16: {enabled: false}", "precision", "precision", "fp32"),
        ("bf16: {enabled: true}", "precision", "precision", "bf16"),
        ("deepspeed_extra_args: {a-b: 1e-4}", "run", "deepspeed_extra_args", {"a-b": 1e-4}),
    ],
)
def test_values(text, section, key, value):
    found = getattr(getattr(read(text), section), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: true", "1:7: seed: wants a whole number, not true"),
        ("seed: 2.0", "1:7: seed: wants a whole number, not 2.0: write 2"),
        ("seed: 2.5", "1:7: seed: wants a whole number, not 2.5"),
        ('seed: "2"', "1:7: seed: wants a whole number, not the text '2': leave out the quotes"),
        ("seed: 010", "1:7: seed: wants a whole number, not 010"),
        ("seed: [1]", "1:7: seed: wants a whole number, not a list"),
        ("seed: {a: 1}", "1:7: seed: wants a whole number, not a mapping"),
        ("seed: -1", "1:1: seed: must be at least 0, not -1"),
        ("train_iters: 0", "1:1: train_iters: must be greater than 0, not 0"),
        ("min_lr: true", "1:9: min_lr: wants a number, not true"),
        ("min_lr: .inf", "1:9: min_lr: wants a finite number, not .inf"),
        ("min_lr: .nan", "1:9: min_lr: wants a finite number, not .nan"),
        ("min_lr: 1e999", "1:9: min_lr: wants a finite number, not 1e999"),
        ("hidden_dropout: 1", "1:1: hidden_dropout: must be less than 1, not 1.0"),
        ("no_weight_tying: 1", "1:18: no_weight_tying: wants true or false, not 1"),
        ('no_weight_tying: "true"', "1:18: no_weight_tying: wants true or false, not the text 'true'"),
        ("save: true", '1:7: save: wants text, not true; put it in "quotes"'),
        ("load: None", "1:7: load: None is a word in YAML, not an absent value: write null, or leave the key out"),
        ("save: [a]", "1:7: save: wants text, not a list"),
        ("train_data_weights: a", "1:21: train_data_weights: wants a list, [a, b, ...], not a"),
        ("optimizer: Adam", "1:12: optimizer: wants a mapping, as in {type: VALUE}, not Adam"),
        ("deepspeed_extra_args: 3", "1:23: deepspeed_extra_args: wants a mapping, {name: value, ...}, not 3"),
        (
            "norm: layer_norm",
            "1:7: norm: layer_norm is not one of layernorm, rmsnorm, scalenorm, non_parametric_layernorm; did you mean layernorm?",
        ),
        ("norm: te_rmsnorm", "1:7: norm: te_rmsnorm is not supported: use rmsnorm"),
        (
            "launcher: jsrun",
            "1:11: launcher: jsrun is not supported: use local, pdsh, openmpi, mpich, slurm or torchrun",
        ),
        (
            "zero_optimization: {stage: 4}",
            "1:28: zero_optimization.stage: 4 is not one of 0, 1, 2, 3",
        ),
        (
            "zero_optimization: {stages: 1}",
            "1:21: zero_optimization.stages: there is no such key; did you mean zero_optimization.stage?",
        ),
        (
            "zero_optimization: {sub_group_size: 1e9}",
            "1:21: zero_optimization.sub_group_size: 1000000000.0 is refused: give it to DeepSpeed through",
        ),
        ("optimizer: {params: {betas: [0.9]}}", "1:29: optimizer.params.betas: wants 2 values, not 1"),
        ("optimizer: {params: {betas: [0.9, 1.5]}}", "optimizer.params.betas: must be less than 1, not 1.5"),
        ("optimizer: {params: {lr: 0}}", "1:22: optimizer.params.lr: must be greater than 0, not 0.0"),
        ("optimizer: {params: {weight_decay: 0.1}}", "is called weight_decay (a key of its own) here"),
        (
            "optimizer: {type: lion}",
            "1:19: optimizer.type: lion is not supported: the optimizers are Adam, AdamW and SGD",
        ),
        ("fp16: {hysteresis: 0}", "1:8: fp16.hysteresis: must be greater than 0, not 0"),
        ("hiden_size: 3", "1:1: hiden_size: there is no such key; did you mean hidden_size?"),
        (
            "base_shapes_file: a",
            "1:1: base_shapes_file: 'a' is refused: no file of shapes is needed: give mup_base_hidden_size",
        ),
        ("clip_grad: 0.5", "1:1: clip_grad: is called gradient_clipping here"),
        ("wandb_api_key: abc", "secrets do not belong in a file: export WANDB_API_KEY=... in the environment instead"),
        ("zebra: 3", "1:1: zebra: there is no such key"),
    ],
)
def test_mistakes(text, complaint):
    with pytest.raises(ConfigError) as caught:
        read(text)
    (found,) = caught.value.complaints
    assert found.startswith("t.yml:")
    assert complaint in found
