"""`tools/bench.py checkpoint`: what a save costs the training loop, and how fast it is beside a plain write of as many bytes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.benchmarks.children import figures
from tools.benchmarks.train import machine

SCRIPT = Path(__file__).resolve().with_name("run_checkpoint.py")


@dataclass(frozen=True)
class CheckpointBench:
    """What to measure: a model that is saved every so many steps, so many times in each way."""

    device: str
    shape: str
    precision: str
    steps: int  # between two saves
    saves: int
    folder: str | None  # on the disk that is measured; None for that of temporary files


def bench_checkpoint(bench: CheckpointBench, console: Console) -> dict[str, Any]:
    """Measure; the result as `--json` prints it."""
    console.print(f"{bench.shape}, {bench.precision}: {bench.saves} saves of each kind, {bench.steps} steps apart ...")
    with tempfile.TemporaryDirectory(prefix="neox-bench-", dir=bench.folder) as folder:
        arguments = ["--folder", folder]
        for name in ("device", "shape", "precision", "steps", "saves"):
            arguments += [f"--{name}", str(getattr(bench, name))]
        times = figures(SCRIPT, arguments, device=bench.device)
    return {
        "benchmark": "checkpoint",
        "machine": machine(bench.device),
        "versions": {"torch": version("torch")},
        "shape": bench.shape,
        "precision": bench.precision,
        "steps_between_saves": bench.steps,
        **times,
        "write_ratio": times["plain_write_seconds"] / times["save_seconds"],
        "copy_share": times["copy_seconds"] / times["interval_seconds"],
        "lost_share": times["asynchronous_interval_seconds"] / times["interval_seconds"] - 1,
    }


def print_checkpoint(result: dict[str, Any], console: Console) -> None:
    """The figures as a table."""
    size, interval = result["checkpoint_bytes"], result["interval_seconds"]
    table = Table(
        title=f"{result['shape']}, {result['precision']}: {size / 1e6:,.0f} MB a checkpoint", title_justify="left"
    )
    for heading in ("", "seconds", ""):
        table.add_column(heading, justify="right" if heading else "left")
    rate = size / 1e6
    rows = [
        (
            "a write of as many bytes, with fsync",
            "plain_write_seconds",
            f"{rate / result['plain_write_seconds']:,.0f} MB/s",
        ),
        ("a save while training waits", "save_seconds", f"{result['write_ratio']:.2f} x the speed of that write"),
        (f"{result['steps_between_saves']} steps", "interval_seconds", "no save"),
        ("the same with an asynchronous save", "asynchronous_interval_seconds", f"{result['lost_share']:.2%} lost"),
        ("of which training waited", "copy_seconds", f"{result['copy_seconds'] / interval:.2%}"),
        ("left to write after these steps", "left_seconds", ""),
    ]
    for words, name, remark in rows:
        table.add_row(words, f"{result[name]:.3f}", remark)
    console.print(table)
