"""`tools/bench.py scale`: steps on 1, 2 and 4 processes, under data, tensor and pipeline parallelism, against the same on one.

Each process has one thread. Work is fixed for each process (weak: as many times the work on as many processes) or in total (strong).
Where there are more processes than cores they share them: efficiency is of the cores at hand. Copies are as many runs on one process
side by side, which have nothing to say to each other: what the machine's memory leaves of its cores. The share of a step in which a
pipeline's stages do not compute stands beside (p - 1) / (m + p - 1), and the plan's step time, with this machine's own rates, beside
what was measured.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from neox.config.errors import ConfigError
from neox.config.gpus import Gpu
from neox.config.handover import pack
from neox.config.read import config_from_values
from neox.config.sections import Config
from neox.config.sizes import flops_per_token
from neox.config.step_time import Cluster, step_time
from neox.launch.argv import LOCAL_ADDRESS, Node, node_workers
from neox.launch.cores import usable_cores
from neox.launch.port import free_port
from neox.launch.supervise import supervise
from neox.tokenizer.vocabulary import CHARACTER_VOCAB_SIZE
from tools.benchmarks.curves import curve_table, curves
from tools.benchmarks.shapes import ROOT
from tools.benchmarks.train import machine

SCRIPT = Path(__file__).resolve().with_name("run_scale.py")
COPIES = "copies"
LAYOUT_KEYS = {"data": None, "tensor": "model_parallel_size", "pipeline": "pipe_parallel_size"}
SCALINGS = ("weak", "strong")
PROCESSES = (1, 2, 4)  # what the model's layers, heads and micro-batches can be divided by
MICRO_BATCHES = 4  # of a step on one process
# next to nothing in the vocabulary, so that pipeline stages are equal
MODEL = {
    "num_layers": 8,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "max_position_embeddings": 256,
    "pos_emb": "rotary",
    "no_weight_tying": True,
    "tokenizer_type": "CharLevelTokenizer",
    "train_micro_batch_size_per_gpu": 2,
    "train_iters": 1000,
    "precision": "fp32",
    "distributed_backend": "gloo",
    "optimizer": {"type": "Adam", "params": {"lr": 1.0e-4}},
}


@dataclass(frozen=True)
class ScaleBench:
    """What to measure."""

    processes: tuple[int, ...]
    steps: int  # of each run
    rounds: int


@dataclass(frozen=True)
class Case:
    """One layout."""

    kind: str  # of LAYOUT_KEYS, or COPIES
    scaling: str
    processes: int

    @property
    def work(self) -> int:
        """Of a step, in that of the step on one process."""
        return self.processes if self.scaling == "weak" else 1

    def config(self) -> Config:
        """The run's configuration, or that of each copy."""
        if self.kind == COPIES:
            return Case("data", "strong", 1).config()
        replicas = self.processes if self.kind == "data" else 1
        keys = {"num_gpus": self.processes, "gradient_accumulation_steps": MICRO_BATCHES * self.work // replicas}
        if layout_key := LAYOUT_KEYS[self.kind]:
            keys[layout_key] = self.processes
        return config_from_values(MODEL | keys)


def bench_scale(bench: ScaleBench, console: Console) -> dict[str, Any]:
    """Run all layouts, round by round; medians. Raises ConfigError where a run fails."""
    alone = Case("data", "strong", 1)
    several = [processes for processes in bench.processes if processes > 1]
    cases = [Case(COPIES, "weak", processes) for processes in several]
    cases += [Case(kind, scaling, processes) for scaling in SCALINGS for kind in LAYOUT_KEYS for processes in several]
    turns: dict[Case, list[dict[str, Any]]] = {case: [] for case in [alone, *cases]}
    for number in range(bench.rounds):
        for case in turns:
            console.print(f"round {number + 1}: {case.processes} processes, {case.kind}, {case.scaling} ...")
            turns[case].append(_run(case, bench.steps))
    measured = {case: _median(of) for case, of in turns.items()}
    return {
        "benchmark": "scale",
        "machine": machine("cpu"),
        "versions": {name: version(name) for name in ("torch", "deepspeed")},
        "steps": bench.steps,
        "rounds": bench.rounds,
        "one_process": measured[alone],
        "rows": [_row(case, measured[case], measured[alone]) for case in cases],
        "curves": curves(),
    }


def _run(case: Case, steps: int) -> dict[str, Any]:
    """Start the processes of a run on this machine, or of some copies of it, one thread each; what they have measured."""
    config = case.config()
    runs, processes = case.processes // config.parallel.world_size, config.parallel.world_size
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with TemporaryDirectory() as name:
        results, workers = [Path(name) / f"{run}.json" for run in range(runs)], []
        for result in results:
            node = Node(0, tuple(range(processes)), processes, LOCAL_ADDRESS, free_port(None))
            argv = [str(SCRIPT), "--config", pack(config), "--result", str(result), "--steps", str(steps)]
            workers += node_workers(node, argv, root=str(ROOT), environ=environment, cores=usable_cores(), devices=0)
        if supervise(workers, environment) != 0:
            raise ConfigError("a run of the benchmark failed; its last lines are above")
        measured = [json.loads(result.read_text()) for result in results]
    return {
        "seconds": mean(run["seconds"] for run in measured),
        "cpu_seconds": [seconds for run in measured for seconds in run["cpu_seconds"]],
        "link_gb_per_second": measured[0]["link_gb_per_second"],
    }


def _median(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one layout over the rounds; those of each process stay with it."""
    links = [turn["link_gb_per_second"] for turn in turns]
    return {
        "seconds": median(turn["seconds"] for turn in turns),
        "cpu_seconds": [median(times) for times in zip(*(turn["cpu_seconds"] for turn in turns), strict=True)],
        "link_gb_per_second": None if None in links else median(links),
    }


def _row(case: Case, measured: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    processes, at_hand = case.processes, min(case.processes, usable_cores())
    config = case.config()
    planned = None
    if case.kind != COPIES:
        planned = _planned_seconds(config, measured["link_gb_per_second"], alone["seconds"]) * processes / at_hand
    return {
        "kind": case.kind,
        "scaling": case.scaling,
        "processes": processes,
        "micro_batches": config.batch.gradient_accumulation_steps,
        **measured,
        "efficiency": case.work * alone["seconds"] / (measured["seconds"] * at_hand),
        "cpu_efficiency": case.work * alone["cpu_seconds"][0] / sum(measured["cpu_seconds"]),
        "bubble": _bubble(case, config, measured),
        "planned_seconds": planned,
        "planned_error": planned and planned / measured["seconds"] - 1,
    }


def _bubble(case: Case, config: Config, measured: dict[str, Any]) -> dict[str, float] | None:
    """Share of a step in which the stages of a pipeline do not compute; None where they wait for cores, too."""
    stages = config.parallel.pipe_size
    if case.kind != "pipeline" or stages > usable_cores():
        return None
    return {
        "expected": (stages - 1) / (config.batch.gradient_accumulation_steps + stages - 1),
        "measured": 1 - mean(measured["cpu_seconds"]) / measured["seconds"],
    }


def _planned_seconds(config: Config, link_gb_per_second: float, seconds_alone: float) -> float:
    """The plan's step time, fitted by two numbers of this machine: what one process alone makes of its core, and the rate at which
    the processes send. The time of the optimizer is in the first."""
    model, batch = config.model, config.batch
    tokens_alone = MICRO_BATCHES * batch.train_micro_batch_size_per_gpu * model.seq_length
    tflops = flops_per_token(model, CHARACTER_VOCAB_SIZE) * tokens_alone / seconds_alone / 1e12
    core = Gpu("one core", tflops, tflops, 0.0, math.inf, link_gb_per_second)
    return step_time(config, CHARACTER_VOCAB_SIZE, Cluster(core, efficiency=1.0)).total


def print_scale(result: dict[str, Any], console: Console) -> None:
    """The measured layouts, and the plan's curves beside published figures."""
    facts = result["machine"]
    console.print(f"{facts['cpu']}, {facts['cores']} cores, torch {result['versions']['torch']}; one thread a process")
    alone = result["one_process"]
    title = f"one process: {alone['seconds']:.3f} s a step, {alone['cpu_seconds'][0]:.3f} CPU-seconds"
    table = Table(title=title, title_justify="left")
    headings = ("parallel", "work", "processes", "micro-batches", "s/step", "efficiency", "per CPU-second")
    for heading in (*headings, "bubble", "expected", "plan's s/step", "error"):
        table.add_column(heading, justify="left" if heading in ("parallel", "work") else "right")
    for row in result["rows"]:
        bubble = row["bubble"]
        table.add_row(
            row["kind"],
            row["scaling"],
            str(row["processes"]),
            str(row["micro_batches"]),
            f"{row['seconds']:.3f}",
            f"{row['efficiency']:.2f}",
            f"{row['cpu_efficiency']:.2f}",
            f"{bubble['measured']:.1%}" if bubble else "",
            f"{bubble['expected']:.1%}" if bubble else "",
            f"{row['planned_seconds']:.3f}" if row["planned_seconds"] else "",
            f"{row['planned_error']:+.0%}" if row["planned_seconds"] else "",
        )
    console.print(table)
    for curve in result["curves"]:
        console.print(curve_table(curve))
