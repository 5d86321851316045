"""`tools/bench.py memory`: what the plan says of memory against what real runs hold, each in fresh processes.

On CPU a counter is preloaded (counted/counter.c); on a GPU torch's own numbers are read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from neox.config.errors import ConfigError
from neox.config.memory import Memory, stage_memory
from neox.config.read import config_from_values
from neox.tokenizer.vocabulary import read_vocab_size
from tools.benchmarks.shapes import ROOT
from tools.benchmarks.train import machine

COUNTED = Path(__file__).resolve().parent / "counted"
# 33.5M parameters; two micro-batches, so that gradients are there while activations are; small buckets, so that they do not hide
# the rest
BASE = {
    "num_layers": 8,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "max_position_embeddings": 512,
    "pos_emb": "rotary",
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
    "train_iters": 2,
    "eval_iters": 0,
    "optimizer": {"type": "Adam", "params": {"lr": 1.0e-4}},
}
BUCKETS = {"reduce_bucket_size": 20_000_000, "allgather_bucket_size": 20_000_000}
BF16 = {"precision": "bf16"}
RECOMPUTE = {"checkpoint_activations": True, "checkpoint_num_layers": 2}
SWIGLU = {"activation": "swiglu", "ffn_hidden_size": 1024}
# 38M parameters in blocks and next to none in the vocabulary: with so small logits other moments are the fullest
CHARACTERS = {
    "num_layers": 12,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "train_micro_batch_size_per_gpu": 1,
    "tokenizer_type": "CharLevelTokenizer",
    "data_path": "data/shakespeare_char_text_document",
}
# name -> keys on top of BASE, the ZeRO stage among them
CASES: dict[str, dict[str, Any]] = {
    "one": {"num_gpus": 1, "stage": 0},
    "bf16": {"num_gpus": 1, "stage": 0, **BF16},
    "recompute": {"num_gpus": 1, "stage": 0, "train_micro_batch_size_per_gpu": 4, **RECOMPUTE},
    "swiglu": {"num_gpus": 1, "stage": 0, "train_micro_batch_size_per_gpu": 4, **SWIGLU},
    "zero0": {"num_gpus": 2, "stage": 0},
    "zero1": {"num_gpus": 2, "stage": 1},
    "zero2": {"num_gpus": 2, "stage": 2},
    "zero3": {"num_gpus": 2, "stage": 3},
    "bf16-zero0": {"num_gpus": 2, "stage": 0, **BF16},
    "bf16-zero1": {"num_gpus": 2, "stage": 1, **BF16},
    "bf16-zero3": {"num_gpus": 2, "stage": 3, **BF16},
    "tensor": {"num_gpus": 2, "stage": 0, "model_parallel_size": 2},
    "sequence": {
        "num_gpus": 2,
        "stage": 0,
        "model_parallel_size": 2,
        "sequence_parallel": True,
        "gpt_j_residual": True,
    },
    "pipeline": {"num_gpus": 2, "stage": 1, "pipe_parallel_size": 2},
    "pipeline-recompute": {
        "num_gpus": 2,
        "stage": 1,
        "pipe_parallel_size": 2,
        "train_micro_batch_size_per_gpu": 4,
        "checkpoint_activations": True,
        "recompute_num_layers": 2,
    },
    "bf16-pipeline": {"num_gpus": 2, "stage": 1, "pipe_parallel_size": 2, **BF16},
    "characters": {"num_gpus": 1, "stage": 0, **CHARACTERS},
    "characters-recompute": {
        "num_gpus": 1,
        "stage": 0,
        **CHARACTERS,
        "train_micro_batch_size_per_gpu": 4,
        "checkpoint_activations": True,
        "recompute_num_layers": 8,
    },
    "characters-zero0": {"num_gpus": 2, "stage": 0, **CHARACTERS},
    "characters-bf16": {"num_gpus": 1, "stage": 0, **CHARACTERS, **BF16},
    "characters-zero1": {"num_gpus": 2, "stage": 1, **CHARACTERS, **BF16},
    "characters-zero2": {"num_gpus": 2, "stage": 2, **CHARACTERS, **BF16},
    "characters-zero3": {"num_gpus": 2, "stage": 3, **CHARACTERS, **BF16},
    "characters-pipeline": {"num_gpus": 2, "stage": 1, "pipe_parallel_size": 2, **CHARACTERS},
}


@dataclass(frozen=True)
class Comparison:
    """One run: bytes of the process that holds most, as the plan has them and as they were."""

    case: str
    state_planned: int  # weights, gradients and optimizer
    state_measured: int
    peak_planned: int  # most in a step, without the margin
    peak_measured: int
    moment: str  # when the plan has the peak

    @property
    def state_error(self) -> float:
        """Of the plan, as a share of what was measured."""
        return self.state_planned / self.state_measured - 1

    @property
    def peak_error(self) -> float:
        """Of the plan, as a share of what was measured."""
        return self.peak_planned / self.peak_measured - 1


def bench_memory(names: Sequence[str], device: str, console: Console) -> dict[str, Any]:
    """Run the cases one after the other; the result as `--json` prints it. Raises ConfigError where a run cannot start."""
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="neox-") as folder:
        counter = build_counter(Path(folder)) if device == "cpu" else None
        for name in names:
            console.print(f"{name} ...")
            comparisons.append(_compare(name, Path(folder), counter))
    return {
        "benchmark": "memory",
        "machine": machine(device),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "megatron-core")},
        "rows": [{**asdict(row), "state_error": row.state_error, "peak_error": row.peak_error} for row in comparisons],
    }


def build_counter(folder: Path) -> Path:
    """Compile the counter; raises ConfigError without a C compiler."""
    library = folder / "counter.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(COUNTED / "counter.c")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError("counting memory on a CPU needs a C compiler: there is no cc") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"counter.c does not compile here (it needs glibc):\n{error.stderr}") from None
    return library


def case_values(name: str) -> dict[str, Any]:
    """The keys of a case."""
    keys = dict(CASES[name])
    return {**BASE, "zero_optimization": {"stage": keys.pop("stage"), **BUCKETS}, **keys}


def planned(name: str, on_gpu: bool) -> list[Memory]:
    """What the plan says of a case, for each pipeline stage."""
    config = config_from_values(case_values(name))
    vocab_size = read_vocab_size(config.tokenizer)
    return [stage_memory(config, vocab_size, stage, on_gpu) for stage in range(config.parallel.pipe_size)]


def _compare(name: str, folder: Path, counter: Path | None) -> Comparison:
    answers = folder / name
    answers.mkdir()
    config = answers / "config.yml"
    config.write_text(yaml.safe_dump(case_values(name)))
    environment = {**os.environ, "MEMORY_FOLDER": str(answers)}
    if counter is not None:
        # MKL keeps buffers of its own for the next product, unless told not to
        environment |= {"CUDA_VISIBLE_DEVICES": "", "LD_PRELOAD": str(counter), "MKL_DISABLE_FAST_MM": "1"}
    command = [sys.executable, str(ROOT / "deepy.py"), str(COUNTED / "train.py"), str(config)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{name}: the run ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    measured = [json.loads(path.read_text()) for path in answers.glob("rank*.json")]
    stages = planned(name, on_gpu=counter is None)
    return Comparison(
        case=name,
        state_planned=max(stage.state for stage in stages),
        state_measured=max(rank["state_bytes"] for rank in measured),
        peak_planned=max(stage.peak for stage in stages),
        peak_measured=max(rank["peak_bytes"] for rank in measured),
        moment=max(stages, key=lambda stage: stage.peak).moment,
    )


def print_memory(result: dict[str, Any], console: Console) -> None:
    """The result as a table, in MB."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run")
    for column in ("state planned", "measured", "error", "peak planned", "measured", "error"):
        table.add_column(column, justify="right")
    table.add_column("peak at the time of")
    for row in result["rows"]:
        numbers = []
        for what in ("state", "peak"):
            sizes = [f"{row[f'{what}_{how}'] / 1e6:.1f}" for how in ("planned", "measured")]
            numbers += [*sizes, f"{row[f'{what}_error']:+.1%}"]
        table.add_row(row["case"], *numbers, row["moment"])
    console.print(table)
