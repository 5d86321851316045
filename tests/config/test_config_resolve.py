"""What is left open is filled in, once, and said where it matters."""

import pytest

from neox.config.errors import ConfigError
from neox.config.flat import to_yaml
from neox.config.load import load_text
from neox.config.read import config_from_values, resolved
from neox.config.resolve import Surroundings, cuda_devices

MODEL = {"num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 32}
RUN = {"train_micro_batch_size_per_gpu": 2, "train_iters": 100}
BASE = {**MODEL, **RUN}


def complaints_of(values, **keywords):
    with pytest.raises(ConfigError) as caught:
        config_from_values(values, **keywords)
    return caught.value.complaints


def notes_of(text, **around):
    return resolved(load_text(text), Surroundings(**{"dry_run": True, **around})).notes


BASE_TEXT = "\n".join(f"{key}: {value}" for key, value in BASE.items()) + "\n"


@pytest.mark.parametrize(
    ("given", "batch"),
    [
        ((None, 2, None), (16, 2, 1)),
        ((None, 2, 3), (48, 2, 3)),
        ((64, 2, None), (64, 2, 4)),
        ((64, None, 2), (64, 4, 2)),
        ((64, None, None), (64, 8, 1)),
        ((64, 4, 2), (64, 4, 2)),
    ],
)
def test_two_sides_of_the_batch_give_the_third(given, batch):
    keys = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    config = config_from_values({**MODEL, "train_iters": 1, "num_gpus": 8, **dict(zip(keys, given, strict=True))})
    assert tuple(getattr(config.batch, key) for key in keys) == batch


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1},
            "64 is not train_micro_batch_size_per_gpu 4 * gradient_accumulation_steps 1 * 8 replicas = 32",
        ),
        (
            {"train_batch_size": 60, "train_micro_batch_size_per_gpu": 4},
            "60 is not a multiple of train_micro_batch_size_per_gpu 4 * 8 replicas = 32; 32 would be",
        ),
        (
            {"train_batch_size": 4},
            "4 is not a multiple of gradient_accumulation_steps 1 * 8 replicas = 8; 8 would be",
        ),
        ({"gradient_accumulation_steps": 4}, "is missing: give train_micro_batch_size_per_gpu or train_batch_size"),
        ({}, "is missing: give train_micro_batch_size_per_gpu or train_batch_size"),
    ],
)
def test_a_batch_that_does_not_fit_shows_its_arithmetic(given, words):
    (complaint,) = complaints_of({**MODEL, "train_iters": 1, "num_gpus": 8, **given})
    assert words in complaint


def test_processes():
    assert config_from_values(BASE).parallel.world_size == 1
    config = config_from_values({**BASE, "global_num_gpus": 4, "model_parallel_size": 2})
    assert (config.parallel.world_size, config.launch.num_gpus, config.parallel.data_size) == (4, 4, 2)
    assert config_from_values({**BASE, "num_gpus": 3, "num_nodes": 1}).parallel.world_size == 3
    two_devices = resolved(load_text(BASE_TEXT), Surroundings(dry_run=True, devices=2)).config
    assert two_devices.launch.num_gpus == 2


def test_processes_that_do_not_fit():
    (complaint,) = complaints_of({**BASE, "num_gpus": 6, "pipe_parallel_size": 4})
    assert complaint.startswith("values:")
    assert "6 processes cannot be divided into model_parallel_size 1 * pipe_parallel_size 4 = 4" in complaint
    (complaint,) = complaints_of({**BASE, "num_gpus": 2, "global_num_gpus": 4})
    assert "global_num_gpus 4 is not num_gpus 2 on one machine" in complaint
    (complaint,) = complaints_of({**BASE, "num_nodes": 2})
    assert "num_nodes: 2 machines, but launcher: local" in complaint


def test_devices_are_counted_by_what_is_visible(monkeypatch):
    monkeypatch.setattr("pathlib.Path.glob", lambda _self, _pattern: iter(["nvidia0", "nvidia1"]))
    assert cuda_devices({}) == 2
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": "1"}) == 1
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}) == 2


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "fp32"),
        ({"precision": "fp16"}, "fp16"),
        ({"fp16": {"enabled": True}}, "fp16"),
        ({"precision": "fp16", "fp16": {"enabled": True}}, "fp16"),
        ({"precision": "bfloat16", "fp16": {"enabled": False}}, "bf16"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": False}}, "bf16"),
    ],
)
def test_precision(keys, expected):
    assert config_from_values({**BASE, **keys}).precision.precision == expected


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "fp16 and bf16 are both enabled: choose one"),
        ({"fp16": {"enabled": True}, "precision": "bf16"}, "precision is bf16, but fp16.enabled is true"),
        ({"bf16": {"enabled": True}, "precision": "fp32"}, "precision is fp32, but bf16.enabled is true"),
        ({"fp16": {"enabled": False}, "precision": "fp16"}, "precision is fp16, but fp16.enabled is false"),
    ],
)
def test_precision_that_contradicts_itself(keys, words):
    (complaint,) = complaints_of({**BASE, **keys})
    assert words in complaint


def test_lengths():
    assert config_from_values(BASE).model.seq_length == 32
    assert config_from_values({**BASE, "seq_length": 16}).model.seq_length == 16
    assert config_from_values(BASE).optimization.lr_decay_iters == 100
    assert config_from_values({**BASE, "lr_decay_fraction": 0.5}).optimization.lr_decay_iters == 50
    assert config_from_values({**BASE, "lr_decay_iters": 70}).optimization.lr_decay_iters == 70
    (complaint,) = complaints_of({**BASE, "lr_decay_iters": 70, "lr_decay_fraction": 0.5})
    assert "lr_decay_fraction: lr_decay_iters is given too" in complaint


def test_the_sample_data_set_stands_in_for_data_keys():
    config = config_from_values({**BASE, "tokenizer_type": "HFTokenizer"})
    assert config.data.data_path == "data/shakespeare_text_document"
    assert config.tokenizer.tokenizer_type == "GPT2BPETokenizer"
    assert (config.tokenizer.vocab_file, config.tokenizer.merge_file) == (
        "data/gpt2-vocab.json",
        "data/gpt2-merges.txt",
    )
    (note,) = [note for note in notes_of(BASE_TEXT + "tokenizer_type: HFTokenizer") if "no data keys" in note]
    assert "GPT2BPETokenizer of data/gpt2-vocab.json instead of HFTokenizer" in note
    config = config_from_values({**BASE, "vocab_file": "mine.json", "merge_file": "mine.txt"})
    assert (config.data.data_path, config.tokenizer.vocab_file) == ("data/shakespeare_text_document", "mine.json")
    config = config_from_values({**BASE, "data_path": "mine", "tokenizer_type": "CharLevelTokenizer"})
    assert (config.data.data_path, config.tokenizer.vocab_file) == ("mine", None)


def test_nccl_without_cuda_becomes_gloo_and_says_so():
    text = BASE_TEXT + "distributed_backend: nccl\n"
    assert any("nccl needs CUDA" in note for note in notes_of(text))
    assert not any("nccl needs CUDA" in note for note in notes_of(text, devices=1))
    assert config_from_values({**BASE, "distributed_backend": "nccl"}).run.distributed_backend == "gloo"


def test_generating_runs_on_one_process_and_needs_no_batch():
    values = {**MODEL, "load": "ckpt", "model_parallel_size": 2, "pipe_parallel_size": 4, "num_gpus": 8}
    config = config_from_values(values, script="generate.py")
    assert (config.parallel.world_size, config.parallel.tensor_size, config.parallel.pipe_size) == (1, 1, 1)
    assert config.launch.num_gpus == 1
    assert config.data.data_path is None
    assert config.tokenizer.vocab_file == "data/gpt2-vocab.json"
    text = "\n".join(f"{key}: {value}" for key, value in values.items())
    assert any("generate.py runs on one process" in note for note in notes_of(text, script="generate.py"))


def test_serving_is_generating_and_says_which_keys_requests_bring():
    text = "\n".join(f"{key}: {value}" for key, value in {**MODEL, "load": "ckpt", "num_gpus": 8}.items())
    notes = notes_of(text + "\ntemperature: 0.5\ngeneration_batch_size: 4\n", script="serve.py")
    assert any("serve.py runs on one process: num_gpus set aside" in note for note in notes)
    assert "serve.py is told by each request: temperature set aside" in notes
    assert not any("is told by each request" in note for note in notes_of(text, script="serve.py"))
    with pytest.raises(ConfigError, match="load: is missing"):
        config_from_values(MODEL, script="serve.py")


def test_the_resolved_configuration_reads_back_as_itself():
    values = {
        **BASE,
        "num_gpus": 2,
        "lr_decay_fraction": 0.5,
        "fp16": {"enabled": True},
        "optimizer": {"type": "adam", "params": {"lr": 1e-4}},
        "attention_config": [[["global", "local"], 2]],
    }
    config = config_from_values(values)
    assert resolved(load_text(to_yaml(config)), Surroundings(dry_run=True)).config == config


def test_a_pipeline_runs_at_zero_1_and_says_so():
    text = BASE_TEXT + "pipe_parallel_size: 2\nnum_gpus: 2\n"
    assert any("raised from 0 to 1" in note for note in notes_of(text))
    config = config_from_values({**BASE, "pipe_parallel_size": 2, "num_gpus": 2})
    assert config.optimization.zero_stage == 1
    assert config_from_values({**BASE, "num_gpus": 2}).optimization.zero_stage == 0
