"""deepy.py from outside: plans, refusals, exit codes, and what it never imports."""

import json
import os
import random
import re
import string
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import deepy as deepy_module

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pos_emb": "rotary",
    "no_weight_tying": True,
    "train_micro_batch_size_per_gpu": 2,
    "train_iters": 10,
    "tokenizer_type": "CharLevelTokenizer",
    "data_path": "text_document",
}
SCRIPT = """\
import os, sys
from neox.config.handover import config_from_argv
config = config_from_argv(sys.argv)
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "layers", config.model.num_layers, config.launch.num_gpus)
print("key", "canary" in " ".join(sys.argv), os.environ.get("WANDB_API_KEY"))
sys.exit(int(os.environ.get("CODE", 0)))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.yml").write_text(json.dumps(CONFIG))
    (tmp_path / "script.py").write_text(SCRIPT)
    for name in ("text_document.bin", "text_document.idx"):
        (tmp_path / name).touch()
    return tmp_path


def deepy(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "deepy.py"), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )


def test_dry_run_as_json(folder):
    arguments = ("num_gpus=4", "model_parallel_size=2", "zero_optimization.stage=1", "gradient_accumulation_steps=3")
    done = deepy(folder, "train.py", "a.yml", "--dry-run", "--json", "--set", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert plan["parameters"] == {
        "total": 4 * (12 * 64 * 64 + 13 * 64) + 128 + 2 * 512 * 64,
        "total_unpadded": 4 * (12 * 64 * 64 + 13 * 64) + 128 + 2 * 512 * 64,
        "non_embedding": 4 * (12 * 64 * 64 + 13 * 64) + 128,
        "active": 4 * (12 * 64 * 64 + 13 * 64) + 128 + 2 * 512 * 64,
        "trainable": 4 * (12 * 64 * 64 + 13 * 64) + 128 + 2 * 512 * 64,
        "per_gpu": 4 * ((12 * 64 * 64 + 7 * 64) // 2 + 6 * 64) + 128 + 512 * 64,
    }
    assert plan["parallel"] == {"world_size": 4, "tensor": 2, "pipeline": 1, "data": 2, "zero_stage": 1}
    assert plan["batch"] == {
        "train_batch_size": 12,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "tokens_per_step": 384,
    }
    assert plan["steps"] == 10
    assert plan["flops_per_token"] > 0
    assert plan["memory"]["per_gpu_bytes"] == sum(s for part, s in plan["memory"].items() if part != "per_gpu_bytes")
    assert len(plan["commands"]) == 4
    assert all(any(word.endswith("train.py") for word in command) for command in plan["commands"])
    assert plan["config"]["model"]["num_layers"] == 4


def test_dry_run_as_text(folder):
    done = deepy(folder, "train", "a", "--dry-run", "--set", "num_gpus=2", "pipe_parallel_size=2")
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "2 processes = 1 tensor x 2 pipeline x 1 data",
        "stage 1  rank 1     blocks 2-3, final norm, output layer",
        "2 = 2 per forward pass x 1 accumulated x 1 replicas; 64 tokens a step",
        "10: 640 tokens",
        "--config ",
        "for rank 1 the same with RANK and LOCAL_RANK 1",
    ):
        assert words in done.stdout
    lines = done.stdout.splitlines()
    assert all(not line.endswith(" ") for line in lines)


def test_a_dry_run_does_without_any_file(tmp_path):
    (tmp_path / "b.yml").write_text(
        json.dumps({k: v for k, v in CONFIG.items() if k not in ("data_path", "tokenizer_type")})
    )
    done = deepy(tmp_path, "train.py", "b.yml", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert plan["vocab_size"] == 50_257
    assert any("data/gpt2-vocab.json" in note for note in plan["notes"])
    assert any("the plan counts with 50,257 tokens" in note for note in plan["notes"])
    done = deepy(tmp_path, "train.py", "b.yml")
    assert done.returncode == 2
    assert "data/gpt2-vocab.json" in done.stderr


def test_a_bad_configuration_exits_2_and_starts_nothing(folder):
    (folder / "b.yml").write_text("hiden_size: 3\nnum-layers: 2\n")
    done = deepy(folder, "script.py", "a.yml", "b.yml", "--set", "lr=3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "b.yml:1:1: hiden_size: there is no such key; did you mean hidden_size?",
        "b.yml:2:1: num_layers: is given twice; the other one is at a.yml:1:2. Remove one, or use --set num_layers=VALUE",
        "--set lr=3: lr: is called optimizer.params.lr here",
        "3 mistakes: nothing was started",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "usage:"),
        (("train.py",), "CONFIG"),
        (("trian.py", "a.yml"), "trian.py: there is no such script; did you mean train.py?"),
        (("train.py", "a.yml", "--json"), "--json: prints the plan of a dry run; add --dry-run"),
        (("train.py", "a.yml", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("train.py", "a.yml", "--dry-run", "--set", "make_vocab_size_divisible_by=1", "num_gpus=3", "model_parallel_size=3"), "4 heads"),
        (("train.py", "a.yml", "--dry-run", "--set", "num_attention_heads=6", "hidden_size=96", "num_gpus=3", "model_parallel_size=3", "rotary_pct=0.5"), "a vocabulary of 512"),
        (("train.py", "a.yml", "--dry-run", "--set", "tokenizer_type=TiktokenTokenizer", "vocab_file=none"), "none"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_2(folder, arguments, words):
    done = deepy(folder, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_examples(folder):
    done = deepy(folder, "--help")
    assert done.returncode == 0
    assert "python deepy.py train.py configs/125M.yml --set" in done.stdout


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (75, 75), (2, 2)])
def test_a_run(folder, code, expected):
    done = deepy(folder, "script.py", "a", "--set", "num_gpus=2", CODE=str(code), WANDB_API_KEY="canary")
    assert done.returncode == expected
    if code in (0, 75):  # a failing rank may end the other before it has spoken
        assert "rank 0 of 2 layers 4 2\n" in done.stdout
        assert "key False canary" in done.stdout
        assert "[rank 1] rank 1 of 2 layers 4 2\n" in done.stdout
    assert "2 processes = 1 tensor x 1 pipeline x 2 data" in done.stderr, "the plan goes to stderr"


def test_a_configuration_that_is_too_long_for_an_argument_lies_where_all_hosts_see_it(folder):
    """As that of thousands of data sets; `srun` shows what the agents would find."""
    srun = folder / "srun"
    srun.write_text('#!/bin/sh\nfor word; do case "$word" in @*) wc -c "${word#@}";; esac; done\n')
    srun.chmod(0o755)
    words = "".join(random.Random(7).choices(string.ascii_letters, k=200_000))
    (folder / "long.yml").write_text(f"deepspeed_extra_args: {{note: {words}}}")
    keys = ["--set", "launcher=slurm", "num_nodes=2", "num_gpus=1"]
    done = deepy(folder, "script.py", "a", "long", *keys, PATH=f"{folder}:{os.environ['PATH']}")
    assert re.search(rf"^\d{{6}} {folder}/\.neox-[^/]*/config.packed$", done.stdout, re.MULTILINE), done.stderr
    assert not list(folder.glob(".neox-*"))


def test_what_a_killed_save_left_counts_as_free(folder, monkeypatch, capsys):
    """It is swept away before the next save: a disk that it has filled does not keep the run from starting again."""
    half = folder / "save" / ".tmp-global_step2" / "state"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"x" * 2**20)
    monkeypatch.setattr(deepy_module, "free_bytes", lambda _: 0)
    monkeypatch.chdir(folder)
    assert deepy_module.main(["train.py", "a.yml", "--dry-run", "--json", "--set", "save=save"]) == 0
    assert 2**20 <= json.loads(capsys.readouterr().out)["checkpoint"]["free_disk_bytes"] < 2**21


def test_no_torch_on_the_launch_node(folder):
    """Neither a plan nor a refusal imports the heavy packages."""
    program = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import deepy
        assert deepy.main(["train.py", "a.yml", "--dry-run"]) == 0
        assert deepy.main(["train.py", "a.yml", "--set", "num_layers=x"]) == 2
        heavy = {{"torch", "deepspeed", "megatron", "transformers", "tokenizers", "numpy", "wandb"}} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_conf_dir_between_the_arguments(folder):
    (folder / "configs").mkdir()
    (folder / "a.yml").rename(folder / "configs" / "a.yml")
    (folder / "configs" / "b.yml").write_text("seed: 7\n")
    for arguments in (("-d", "configs", "a", "b"), ("a", "-d", "configs", "b"), ("a", "b", "-d", "configs")):
        done = deepy(folder, "train.py", *arguments, "--dry-run", "--json")
        assert json.loads(done.stdout)["config"]["run"]["seed"] == 7, done.stderr


def test_the_shell_completes_scripts_and_keys(folder):
    def completed(line):
        environment = {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "completions"),
            "_ARGCOMPLETE_IFS": " ",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        assert deepy(folder, **environment).returncode == 0
        return (folder / "completions").read_text().split()

    assert "train.py" in completed("deepy.py tra")
    assert completed("deepy.py train.py a.yml --explain optimizer.params.l") == ["optimizer.params.lr"]
    assert "rotary_pct=" in completed("deepy.py train.py a.yml --set rotary")


def test_questions_about_keys(folder):
    done = deepy(folder, "train.py", "a.yml", "--explain", "hidden_size", "train_batch_size")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hidden_size: 64\n  set at a.yml:1:19\n" in done.stdout
    assert deepy(folder, "train.py", "a.yml", "--explain", "hidensize").returncode == 2
    found = deepy(folder, "--keys", "rotary")
    assert found.returncode == 0
    assert "rotary_pct: share of each head's dimensions that rotate" in found.stdout
    assert deepy(folder, "--keys", "nosuchword").returncode == 2
    assert "SCRIPT and CONFIG are needed, before --set" in deepy(folder).stderr
