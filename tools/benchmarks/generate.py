"""`tools/bench.py generate`: tokens a second of generation, the prompt and the new tokens apart, next to transformers' `generate`.

Both have the same weights, ours exported by our own exporter, and choose the likeliest token. The floor of a new token is the time
in which the machine's memory is read once through all weights.
"""

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

SCRIPT = Path(__file__).resolve().with_name("run_generate.py")


@dataclass(frozen=True)
class GenerateBench:
    """What to measure."""

    device: str
    shape: str
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    rounds: int


def bench_generate(bench: GenerateBench, console: Console) -> dict[str, Any]:
    """Measure; the result as `--json` prints it."""
    rows = []
    for precision in bench.precisions:
        console.print(f"{bench.shape}, {precision}: {bench.prompt_tokens} tokens and {bench.new_tokens} new ones ...")
        found = _run(bench, precision)
        floor = found["weight_bytes"] / found["read_bytes_per_second"]
        rows += [_row(bench, precision, floor, row) for row in found["rows"]]
    return {
        "benchmark": "generate",
        "machine": machine(bench.device),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "shape": bench.shape,
        "prompt_tokens": bench.prompt_tokens,
        "new_tokens": bench.new_tokens,
        "rows": rows,
    }


def _run(bench: GenerateBench, precision: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="neox-bench-") as folder:
        arguments = ["--folder", folder, "--device", bench.device, "--shape", bench.shape]
        arguments += ["--precision", precision, "--batch", *bench.batches, "--prompt", bench.prompt_tokens]
        arguments += ["--new", bench.new_tokens, "--rounds", bench.rounds]
        return figures(SCRIPT, arguments, device=bench.device)


def _row(bench: GenerateBench, precision: str, floor: float, row: dict[str, Any]) -> dict[str, Any]:
    """floor: seconds in which the weights are read once."""
    tokens = {"prompt": row["batch"] * bench.prompt_tokens, "token": row["batch"]}
    return {
        "precision": precision,
        "batch": row["batch"],
        "same_texts": row["same_texts"],
        **{kind: _compared(row[kind], count) for kind, count in tokens.items()},
        "floor_tokens_per_sec": row["batch"] / floor,
        "floor_ratio": floor / row["token"]["ours"]["seconds"],
    }


def _compared(costs: dict[str, dict[str, float]], tokens: int) -> dict[str, Any]:
    """Rates of both, and the ratios of ours to transformers'."""
    ours, theirs = costs["ours"], costs["transformers"]
    return {
        "tokens_per_sec": {name: tokens / cost["seconds"] for name, cost in costs.items()},
        "ratio": theirs["seconds"] / ours["seconds"],
        "cpu_seconds_ratio": ours["cpu_seconds"] / theirs["cpu_seconds"],
    }


def print_generate(result: dict[str, Any], console: Console) -> None:
    """The prompt and the new tokens, a table each; CPU is our CPU-seconds over theirs, equal the share of equal texts."""
    facts, versions = result["machine"], result["versions"]
    packages = f"torch {versions['torch']}, transformers {versions['transformers']}"
    console.print(f"{facts['cpu']}, {facts['cores']} cores; {packages}; {result['shape']}", highlight=False)
    console.print(
        _table(f"{result['prompt_tokens']} tokens of the prompt and the first new one, tokens/s", "prompt", result),
        _table(f"each of {result['new_tokens'] - 1} further tokens, tokens/s", "token", result),
    )


def _table(title: str, kind: str, result: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    headings = ["precision", "batch", "ours", "theirs", "ratio", "CPU"]
    for heading in headings + (["memory", "of it", "equal"] if kind == "token" else []):
        table.add_column(heading, justify="left" if heading == "precision" else "right")
    for row in result["rows"]:
        compared = row[kind]
        cells = [row["precision"], str(row["batch"])]
        cells += [f"{compared['tokens_per_sec'][name]:,.1f}" for name in ("ours", "transformers")]
        cells += [f"{compared['ratio']:.2f}", f"{compared['cpu_seconds_ratio']:.2f}"]
        if kind == "token":
            cells += [f"{row['floor_tokens_per_sec']:,.1f}", f"{row['floor_ratio']:.2f}", f"{row['same_texts']:.0%}"]
        table.add_row(*cells)
    return table
