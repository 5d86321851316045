"""`tools/bench.py launch`: the time from Enter to the first training step, next to what no launcher can save.

The floor is the time in which as many processes import what a run imports. The peers start a bare script that joins a gloo
group, sums one number and ends: without a launcher, under torchrun, and under DeepSpeed's command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy
import yaml
from rich.console import Console
from rich.table import Table

from neox.config.sections import TokenizerConfig
from neox.data.store import StoreWriter, token_dtype
from neox.launch.port import free_port
from neox.tokenizer.tokenizer import build_tokenizer
from tools.benchmarks.shapes import ROOT
from tools.benchmarks.train import machine

FIRST_STEP = "iteration 1/"
IMPORTS = "imports alone"
PRODUCT = "deepy.py, first step"
BARE_SCRIPT = """\
import torch
from torch import distributed

distributed.init_process_group("gloo")
distributed.all_reduce(torch.ones(1))
distributed.destroy_process_group()
"""
# small enough that its step takes no time, and complete otherwise
MODEL = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "tokenizer_type": "CharLevelTokenizer",
    "train_micro_batch_size_per_gpu": 1,
    "train_iters": 1,
    "eval_iters": 0,
    "log_interval": 1,
    "precision": "fp32",
}


@dataclass(frozen=True)
class LaunchBench:
    """What to measure."""

    processes: tuple[int, ...]
    rounds: int


@dataclass(frozen=True)
class Turn:
    """What one start cost."""

    seconds: float
    cpu_seconds: float  # of all its processes


def bench_launch(bench: LaunchBench, console: Console) -> dict[str, Any]:
    """Let all contestants start in turn; medians by number of processes."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE_SCRIPT)
        config = _write_config(folder)
        rows = []
        for processes in bench.processes:
            console.print(f"{processes} processes ..." if processes > 1 else "1 process ...")
            rows.append(_row(processes, _contestants(processes, config, folder / "bare.py"), bench.rounds))
    return {
        "benchmark": "launch",
        "machine": machine("cpu"),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "megatron-core")},
        "rounds": bench.rounds,
        "rows": rows,
    }


def _write_config(folder: Path) -> Path:
    """A configuration of the small model, and its data set."""
    tokenizer = build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer"))
    prefix = folder / "text_document"
    with StoreWriter(prefix, token_dtype(tokenizer.vocab_size)) as store:
        store.add(numpy.arange(4096, dtype=store.dtype) % tokenizer.vocab_size, numpy.array([4096]))
        store.finish()
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({**MODEL, "data_path": str(prefix), "log_dir": str(folder / "logs")}))
    return path


def _contestants(processes: int, config: Path, bare: Path) -> dict[str, Callable[[], Turn]]:
    def training(*more: str) -> list[str]:
        return [sys.executable, "deepy.py", "train.py", str(config), "--set", f"num_gpus={processes}", *more]

    def alone() -> list[dict[str, str]]:
        port = str(free_port(None))
        return [
            {"RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            for rank in range(processes)
        ]

    module = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    deepspeed = [str(Path(sys.executable).with_name("deepspeed")), "--num_accelerators", str(processes)]
    importing = [sys.executable, "-c", "import neox.training.pretrain"]
    return {
        IMPORTS: lambda: _turn([(importing, {})] * processes),
        PRODUCT: lambda: _turn([(training(), {})], until=FIRST_STEP),
        "deepy.py --dry-run": lambda: _turn([(training("--dry-run"), {})]),
        "bare script": lambda: _turn([([sys.executable, str(bare)], place) for place in alone()]),
        "torchrun, bare script": lambda: _turn([([*module, f"--master-port={free_port(None)}", str(bare)], {})]),
        "deepspeed, bare script": lambda: _turn([([*deepspeed, f"--master_port={free_port(None)}", str(bare)], {})]),
    }


def _kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment as a user has it: with Python's bytecode kept, or every start compiles every module again."""
    return {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _turn(starts: Sequence[tuple[list[str], dict[str, str]]], until: str | None = None) -> Turn:
    """Start all at once; the time until the first one prints a line with `until`, or until all have ended."""
    before, began = os.times(), time.perf_counter()
    with ExitStack() as stack:
        running = []
        for argv, environment in starts:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={
                    **_kept(os.environ),
                    "OMP_NUM_THREADS": "1",
                    "CUDA_VISIBLE_DEVICES": "",
                    "DS_ACCELERATOR": "cpu",
                    **environment,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(process.kill)
            running.append(process)
        seconds, printed = None, []
        for process in running:
            for line in process.stdout:
                printed.append(line)
                if until is not None and until in line and seconds is None:
                    seconds = time.perf_counter() - began
            if process.wait() != 0:
                raise RuntimeError(f"{process.args} ended with exit code {process.returncode}:\n{''.join(printed)}")
        after = os.times()
        return Turn(
            seconds=time.perf_counter() - began if seconds is None else seconds,
            cpu_seconds=after.children_user - before.children_user + after.children_system - before.children_system,
        )


def _row(processes: int, contestants: dict[str, Callable[[], Turn]], rounds: int) -> dict[str, Any]:
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name in list(contestants) if number % 2 == 0 else reversed(contestants):
            turn = contestants[name]()
            if number > 0:  # the first round reads the files into the page cache
                turns[name].append(turn)
    scores = [
        {
            "name": name,
            "seconds": median(turn.seconds for turn in own),
            "cpu_seconds": median(turn.cpu_seconds for turn in own),
        }
        for name, own in turns.items()
    ]
    seconds = {score["name"]: score["seconds"] for score in scores}
    return {"processes": processes, "contestants": scores, "first_step_ratio": seconds[PRODUCT] / seconds[IMPORTS]}


def print_launch(result: dict[str, Any], console: Console) -> None:
    """One table for each number of processes."""
    facts = result["machine"]
    console.print(f"{facts['cpu']}, {facts['cores']} cores, torch {result['versions']['torch']}")
    for row in result["rows"]:
        table = Table(title=f"{row['processes']} processes", title_justify="left", caption_justify="left")
        for heading in ("", "seconds", "CPU seconds"):
            table.add_column(heading, justify="right" if heading else "left")
        for score in row["contestants"]:
            table.add_row(score["name"], f"{score['seconds']:.2f}", f"{score['cpu_seconds']:.2f}")
        table.caption = f"first step at {row['first_step_ratio']:.2f}x the time of the imports alone"
        console.print(table)
