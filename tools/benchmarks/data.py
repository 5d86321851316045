"""Preprocessing against its peers' loops and against the bare tokenizer, on one corpus, in turns; then the samples of its result,
next to what training steps consume."""

from __future__ import annotations

import json
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.corpus import documents, find_corpora
from neox.data.store import check_store
from neox.tokenizer.vocabulary import read_vocab_size
from tools.benchmarks.children import figures
from tools.benchmarks.contest import Entry, contest
from tools.benchmarks.run_data import CEILINGS, JOBS
from tools.benchmarks.shapes import SHAPES, bench_config
from tools.benchmarks.train import machine

SCRIPT = Path(__file__).resolve().with_name("run_data.py")
STEP_SHAPES, STEP_PRECISION = ("quickstart", "125M"), "bf16"  # what consumes most
PEERS = [name for name in JOBS if name != "neox"]
PACKAGES = ("tiktoken", "tokenizers", "megatron-core", "numpy", "orjson")


@dataclass(frozen=True)
class DataBench:
    """What to measure: the inputs' documents, repeated up to so many megabytes of text, by each number of workers."""

    inputs: tuple[str, ...]
    tokenizer: TokenizerConfig
    megabytes: float
    workers: tuple[int, ...]
    rounds: int


def bench_data(bench: DataBench, console: Console) -> dict[str, Any]:
    """Run all contestants in turns; medians, in MB of text per second and per CPU-second."""
    with tempfile.TemporaryDirectory(prefix="neox-bench-") as name:
        folder = Path(name)
        corpus = folder / "corpus.jsonl"
        text_bytes, count = write_corpus(bench, corpus)
        rows = [_row(bench, workers, corpus, text_bytes, folder, console) for workers in bench.workers]
        console.print("samples from what was written", highlight=False)
        samples = _samples(bench, folder)
    console.print("training steps", highlight=False)
    return {
        "machine": machine("cpu"),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in PACKAGES},
        "corpus": {"text_bytes": text_bytes, "documents": count},
        "tokenizer": bench.tokenizer.model_dump(),
        "rows": rows,
        "samples": samples,
        "steps": [_step(shape, samples) for shape in STEP_SHAPES],
    }


def _step(shape: str, samples: dict[str, Any]) -> dict[str, Any]:
    """The tokens a second that a training step on this machine reads, and how many times as fast they come from the map."""
    config = bench_config(shape, precision=STEP_PRECISION, device="cpu")
    arguments = ("--vocab-size", str(SHAPES[shape].vocab_size))
    entry = Entry("neox", "run_neox.py", arguments, config, launched=True)
    (score,) = contest([entry], device="cpu", rounds=3, steps_per_turn=SHAPES[shape].steps_per_turn["cpu"])
    rate = config.batch.train_batch_size * config.model.seq_length / score.seconds
    read = {name: samples["reading"][f"ours, {name}"]["samples_per_sec"] for name in ("sequential", "random")}
    return {
        "shape": shape,
        "precision": STEP_PRECISION,
        "tokens_per_sec": rate,
        "times_as_fast": {name: samples["seq_length"] * speed / rate for name, speed in read.items()},
    }


def _samples(bench: DataBench, folder: Path) -> dict[str, Any]:
    """The training samples of what we wrote."""
    from tools.benchmarks.samples import measure_samples  # noqa: PLC0415 (it brings torch, which takes seconds to import)

    return measure_samples(str(folder / "neox_text_document"), read_vocab_size(bench.tokenizer), folder, bench.rounds)


def write_corpus(bench: DataBench, path: Path) -> tuple[int, int]:
    """The corpus as JSON lines; bytes of text and number of documents."""
    texts = [document.texts[0] for file in find_corpora(bench.inputs).paths for document in documents(file)]
    texts = [text for text in texts if text]
    if not texts:
        raise ConfigError(f"{', '.join(bench.inputs)}: there is no text in it")
    size = number = 0
    with open(path, "w", encoding="utf-8") as file:
        while size < bench.megabytes * 1e6:
            text = texts[number % len(texts)]
            file.write(json.dumps({"text": text}) + "\n")
            size, number = size + len(text.encode()), number + 1
    return size, number


def _row(
    bench: DataBench, workers: int, corpus: Path, text_bytes: int, folder: Path, console: Console
) -> dict[str, Any]:
    names = [*JOBS, *CEILINGS]
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    tokens = {}
    for number in range(bench.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            console.print(f"{workers} workers, turn {number + 1} of {bench.rounds}: {name}", highlight=False)
            turns[name].append(_turn(bench, name, workers, corpus, folder / name))
            if name in JOBS:
                tokens[name] = check_store(folder / (f"{name}_text_document" if name == "neox" else name)).tokens
    if len(set(tokens.values())) > 1:
        raise RuntimeError(f"the contestants do not write the same tokens: {tokens}")
    seconds = {name: median(turn["seconds"] for turn in turns[name]) for name in names}
    cpu_seconds = {name: median(turn["cpu_seconds"] for turn in turns[name]) for name in names}
    return {
        "workers": workers,
        "tokens": tokens["neox"],
        "contestants": [
            {
                "name": name,
                "mb_per_sec": text_bytes / 1e6 / seconds[name],
                "mb_per_cpu_sec": text_bytes / 1e6 / cpu_seconds[name],
                "tokens_per_sec": tokens["neox"] / seconds[name],
            }
            for name in names
        ],
        "times_the_speed_of": {name: seconds[name] / seconds["neox"] for name in [*PEERS, *CEILINGS]},
        "times_the_speed_per_cpu_second_of": {
            name: cpu_seconds[name] / cpu_seconds["neox"] for name in [*PEERS, *CEILINGS]
        },
    }


def _turn(bench: DataBench, name: str, workers: int, corpus: Path, prefix: Path) -> dict[str, float]:
    arguments = [name, "--corpus", corpus, "--tokenizer", bench.tokenizer.model_dump_json()]
    return figures(SCRIPT, [*arguments, "--workers", workers, "--prefix", prefix])


def print_data_result(result: dict[str, Any], console: Console) -> None:
    """A table for each number of workers."""
    facts, corpus = result["machine"], result["corpus"]
    packages = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    console.print(f"{facts['cpu']}, {facts['cores']} cores; {packages}", highlight=False)
    console.print(f"{corpus['text_bytes'] / 1e6:,.1f} MB of text, {corpus['documents']:,} documents", highlight=False)
    for row in result["rows"]:
        console.print(_table(row))
    from tools.benchmarks.samples import sample_tables  # noqa: PLC0415 (as above)

    console.print(*sample_tables(result["samples"]))
    for step in result["steps"]:
        times = ", ".join(f"{times:,.0f} times as fast {name}" for name, times in step["times_as_fast"].items())
        what = f"a {step['precision']} step of {step['shape']} reads {step['tokens_per_sec']:,.0f} tokens/s"
        console.print(f"{what}; samples come {times}", highlight=False)


def _table(row: dict[str, Any]) -> Table:
    table = Table(title=f"{row['workers']} workers, {row['tokens']:,} tokens", title_justify="left")
    for heading in ("", "MB/s", "MB per CPU-second", "tokens/s", "ours is", "per CPU-second"):
        table.add_column(heading, justify="right" if heading else "left")
    for entry in row["contestants"]:
        name = entry["name"]
        ratios = [row[kind].get(name) for kind in ("times_the_speed_of", "times_the_speed_per_cpu_second_of")]
        table.add_row(
            name,
            f"{entry['mb_per_sec']:.2f}",
            f"{entry['mb_per_cpu_sec']:.2f}",
            f"{entry['tokens_per_sec']:,.0f}",
            *("" if ratio is None else f"{ratio:.2f}x" for ratio in ratios),
        )
    return table
