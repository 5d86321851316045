"""Reading files and overrides: where keys come from, and one clear line for each thing that cannot be read."""

import pytest

from neox.config.errors import ConfigError
from neox.config.load import ROOT, load
from neox.config.read import read_config
from neox.config.yaml_nodes import plain_value

MODEL = "num_layers: 2\nhidden_size: 64\nnum_attention_heads: 4\nmax_position_embeddings: 32\n"
RUN = "train_micro_batch_size_per_gpu: 1\ntrain_iters: 10\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files into an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write_file


def config_of(*paths, overrides=(), **keywords):
    return read_config(paths, overrides=overrides, dry_run=True, **keywords).config


def complaints_of(*paths, **keywords):
    with pytest.raises(ConfigError) as caught:
        config_of(*paths, **keywords)
    return caught.value.complaints


def test_files_are_merged_and_the_suffix_may_be_left_out(write):
    write("configs/model.yml", MODEL)
    write("configs/run.yml", RUN)
    config = config_of("model", "run.yml", conf_dir="configs")
    assert (config.model.num_layers, config.batch.train_iters) == (2, 10)
    assert config_of("configs/model", "configs/run").model == config.model


def test_idioms_of_gpt_neox(write):
    write(
        "neox.yml",
        """# a comment
{
  # parallelism
  "pipe-parallel-size": 1, "model-parallel-size": 1,
  "num_layers": 2, "hidden-size": 64, "num-attention-heads": 4, "max-position-embeddings": 32, "seq-length": 32,
  "norm": "layernorm", "pos-emb": "rotary", "rotary_pct": 0.25, "no-weight-tying": true, "gpt_j_residual": true,
  "output_layer_parallelism": "column", "scaled-upper-triang-masked-softmax-fusion": true, "bias-gelu-fusion": True,
  "attention_config": [[["flash"], 2]],
  "init_method": "small_init", "output_layer_init_method": "wang_init",
  "optimizer": { "type": "Adam", "params": { "lr": 0.97e-4, "betas": [0.9, 0.95], "eps": 1.0e-8, "max_grad_norm": 1.0, } },
  "min_lr": 0.97e-5,
  "zero_optimization": {
    "stage": 1, "allgather_partitions": True, "allgather_bucket_size": 1260000000, "overlap_comm": True,
    "reduce_scatter": True, "reduce_bucket_size": 5e8, "contiguous_gradients": True, "cpu_offload": False,
  },
  "train_micro_batch_size_per_gpu": 4, "data-impl": "mmap", "split": "995,4,1", "num_workers": 1,
  "checkpoint-activations": true, "checkpoint-num-layers": 1, "partition-activations": true,
  "synchronize-each-layer": true,
  "gradient_clipping": 1.0, "weight-decay": 0.01, "hidden-dropout": 0, "attention-dropout": 0,
  "fp16": { "fp16": true, "enabled": true, "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 12,
            "hysteresis": 2, "min_loss_scale": 1 },
  "train-iters": 150000, "lr-decay-iters": 150000, "distributed-backend": "nccl", "lr-decay-style": "cosine",
  "warmup": 0.01, "checkpoint_factor": 500, "eval-interval": 1000, "eval-iters": 10,
  "extra-save-iters": [0, 1, 2, 4], "keep_last_n_checkpoints": 4,
  "log-interval": 2, "steps_per_print": 2, "wall_clock_breakdown": false,
  "tokenizer_type": "HFTokenizer", "hostfile": "/mock_path", "use_wandb": null, "lr_decay_fraction": null,
}
""",
    )
    resolved = read_config(["neox.yml"], dry_run=True)
    config = resolved.config
    assert config.optimization.lr == 0.97e-4
    assert config.optimization.zero_optimization.reduce_bucket_size == 500_000_000
    assert config.precision.precision == "fp16"
    assert config.precision.fp16.initial_scale_power == 12
    assert config.monitor.use_wandb is False
    notes = "\n".join(resolved.notes)
    for words in ("bias_gelu_fusion", "/mock_path", "data/shakespeare_text_document", "nothing", "gloo"):
        assert words in notes or words == "nothing"
    assert "save is not given" in notes
    assert "cpu_offload" not in notes, "a default value asks for nothing and needs no note"


def test_bfloat16_of_gpt_neox(write):
    write("a.yml", MODEL + RUN + '"precision": "bfloat16"\n"fp32_allreduce": True\n')
    assert config_of("a").precision.precision == "bf16"


def test_a_key_given_twice_names_both_places(write):
    """FAULTS 26."""
    write("a.yml", MODEL + RUN + "hidden-size: 32\n")
    assert complaints_of("a") == [
        "a.yml:7:1: hidden-size: is given twice; the other one is at a.yml:2:1. Remove one of them"
    ]
    write("b.yml", MODEL + RUN)
    write("c.yml", "\nhidden-size: 32\n")
    (complaint,) = complaints_of("b", "c")
    assert complaint.startswith("c.yml:2:1: hidden_size: is given twice; the other one is at b.yml:2:1.")
    write("d.yml", MODEL + RUN + "optimizer: {params: {lr: 1, lr: 2}}\n")
    (complaint,) = complaints_of("d")
    assert complaint.startswith("d.yml:7:29: lr: is given twice")


def test_a_file_given_twice(write):
    write("a.yml", MODEL + RUN)
    assert complaints_of("a", "./a.yml") == ["a.yml: this file is given twice"]


def test_overrides_replace_and_lead_into_dicts(write):
    write("a.yml", MODEL + RUN + "optimizer: {type: SGD, params: {lr: 0.1}}\nzero_optimization: {stage: 1}\n")
    config = config_of(
        "a",
        overrides=[
            "hidden-size=128",
            "optimizer.params.lr=1e-4",
            "zero_optimization.stage=2",
            "attention_config=[[[local], all]]",
            "save=",
            "log_dir=# nothing",
            "fp16.enabled=true",
        ],
    )
    assert config.model.hidden_size == 128
    assert (config.optimization.lr, config.optimization.optimizer.type) == (1e-4, "SGD")
    assert config.optimization.zero_stage == 2
    assert config.model.attention_config == [[["local"], "all"]]
    assert config.checkpoint.save is config.monitor.log_dir is None
    assert config.precision.precision == "fp16"


def test_override_errors_name_the_argument(write):
    write("a.yml", MODEL + RUN)
    complaints = complaints_of(
        "a", overrides=["hidden_size", "hiden_size=3", "num_layers=two", "optimizer.params.lr=fast", "split=[1", "=3"]
    )
    assert complaints == [
        "--set hidden_size: write KEY=VALUE, as in --set train_iters=100 zero_optimization.stage=1",
        "--set hiden_size=3: hiden_size: there is no such key; did you mean hidden_size?",
        "--set num_layers=two: num_layers: wants a whole number, not two",
        "--set optimizer.params.lr=fast: optimizer.params.lr: wants a number, not fast",
        complaints[4],
        "--set =3: write KEY=VALUE, as in --set train_iters=100 zero_optimization.stage=1",
    ]
    assert complaints[4].startswith("--set split=[1: this is not YAML: ")


def test_merge_keys_and_aliases(write):
    write("a.yml", "base: &base {lr: 0.1, eps: 1e-6}\n")
    text = MODEL + RUN + "optimizer: {params: &p {lr: 0.1, eps: 1e-6}}\nzero_optimization: {<<: *p, stage: 1}\n"
    write("b.yml", text)
    complaints = complaints_of("b")
    assert [line.split(": ")[1] for line in complaints] == ["zero_optimization.lr", "zero_optimization.eps"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "bad.yml: is empty: it holds no keys"),
        ("# only a comment\n", "bad.yml: is empty: it holds no keys"),
        ("- 1\n- 2\n", "bad.yml:1:1: holds no keys: write one `key: value` on each line"),
        ("hello", "bad.yml:1:1: holds no keys: write one `key: value` on each line"),
        ("a: 1\n\tb: 2\n", "bad.yml:2:1: this is not YAML: found a tab character that violates indentation"),
        ("a: 1\nseed: [1, 2\n", "bad.yml:3:1: this is not YAML: did not find expected ',' or ']'"),
        ("a: 1\nb: *nobody\n", "bad.yml:2:4: this is not YAML: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "bad.yml:2:1: this is not YAML: but found another document"),
        (b"seed: 1\nsave: \xff\xfe\n", "bad.yml:2:7: the byte 0xff is not UTF-8: save the file as UTF-8 text"),
        (b"seed: 1\nsave: a\x01b\n", "bad.yml:2:8: a character that YAML forbids"),
        (
            "seed: !!python/object/apply:os.system ['true']\n",
            "bad.yml:1:7: the tag !!python/object/apply:os.system is refused: a configuration holds plain values only",
        ),
        ("seed: !!binary aGVsbG8=\n", "bad.yml:1:7: the tag !!binary is refused"),
        ("seed: &a [*a]\n", "too large once its aliases (*name) are written out"),
        ("seed: " + "[" * 5000 + "\n", "bad.yml:1:46: lists and mappings nest more than 40 deep here"),
        ("? [a, b]\n: 1\n", "bad.yml:1:3: a key must be a word"),
        ("<<: 3\n", "bad.yml:1:5: <<: can only merge mappings"),
        ("seed: 1\n" + "#" * 2_100_000, "bad.yml: is over 2 MB: this is no configuration"),
    ],
)
def test_what_cannot_be_read_is_one_line(write, content, expected):
    """FAULTS 26."""
    write("bad.yml", content)
    write("good.yml", MODEL + RUN)
    complaints = complaints_of("good", "bad")
    assert any(expected in line for line in complaints), complaints
    assert all("\n" not in line for line in complaints)


def test_a_tab_is_named(write):
    write("bad.yml", "a: 1\n\tb: 2\n")
    assert "this line holds a tab: YAML wants spaces" in complaints_of("bad")[0]


def test_an_alias_bomb_ends_soon(write):
    """FAULTS 26."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    write("bomb.yml", "\n".join(lines))
    assert "too large once its aliases" in complaints_of("bomb")[0]


def test_missing_files_and_folders(write):
    write("configs/125M.yml", MODEL + RUN)
    assert complaints_of("configs/125m")[0] == "configs/125m: there is no such file; did you mean 125M.yml?"
    assert complaints_of("configs")[0].startswith("configs: is a directory")
    assert complaints_of("x" * 5000)[0].endswith("cannot be looked up: File name too long")
    assert complaints_of("nul\0byte")[0].endswith("there is no such file")


def test_our_own_files_are_found_for_a_user_elsewhere(write):
    write("mine.yml", MODEL)
    for typed in ("configs/pythia/14M", "pythia/14M.yml"):
        (complaint,) = [line for line in complaints_of(typed) if line.startswith(typed)]
        assert complaint == f"{typed}: there is no such file; did you mean {ROOT}/configs/pythia/14M.yml?"


def test_all_mistakes_are_told_together_in_order(write):
    write("a.yml", MODEL.replace("64", "sixty") + "num_gpus: 0\n")
    write("b.yml", "lr_decay_style: cosin\nsave_interval: 10\nbatch_size: 4\n")
    complaints = complaints_of("a", "b")
    assert [line.partition(": ")[0] for line in complaints[:5]] == [
        "a.yml:2:14", "a.yml:5:1", "b.yml:1:17", "b.yml:2:1", "b.yml:3:1",
    ]  # fmt: skip
    assert complaints[2].endswith("cosin is not one of constant, linear, cosine; did you mean cosine?")
    assert complaints[3].endswith("save_interval: is called checkpoint_factor here")
    assert complaints[4].endswith("batch_size: is called train_micro_batch_size_per_gpu here")
    assert any("train_iters: is missing" in line for line in complaints), "rules run beside other mistakes"


def test_what_stands_in_a_file_that_cannot_be_read_is_not_missed(write):
    write("a.yml", "save_interval: 10\n")
    assert len(complaints_of("a")) > 3
    assert [line.partition(": ")[0] for line in complaints_of("a", "none")] == ["a.yml:1:1", "none"]


def test_required_keys_are_named_with_the_files(write):
    write("a.yml", RUN)
    complaints = complaints_of("a")
    assert "a.yml: hidden_size: is missing: width of the residual stream" in complaints
    assert len(complaints) == 4


def test_raw_config_knows_places(write):
    write("a.yml", "seed: 3\nsave: here\n")
    raw = load(["a"])
    assert {key: plain_value(node) for key, node in raw.entries.items()} == {"seed": 3, "save": "here"}
    assert str(raw.places["save"]) == "a.yml:2:1"
