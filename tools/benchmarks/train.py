"""`tools/bench.py train`: the training step of the product against a plain PyTorch loop, and against the machine."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neox.config.gpus import known_peak_tflops
from neox.config.sections import Config
from neox.config.sizes import flops_per_token, parameter_counts
from neox.launch.cores import usable_cores
from tools.benchmarks.contest import Entry, Score, contest
from tools.benchmarks.shapes import PRECISIONS, SHAPES, bench_config, product_flops

PRODUCTS = "matrix products alone"


@dataclass(frozen=True)
class TrainBench:
    """What to measure."""

    device: str
    shapes: tuple[str, ...]
    precisions: tuple[str, ...]
    compiled: tuple[bool, ...]  # the product and the plain loop under torch.compile, or not, or both
    local: bool  # the product with windows in every other layer too
    rounds: int
    steps_per_turn: int | None  # by shape where it is not given
    seq_length: int | None
    micro_batch_size: int | None


@dataclass(frozen=True)
class Row:
    """One shape in one precision: the product, its plain peers, and the machine."""

    shape: str
    precision: str
    config: Config
    vocab_size: int
    ours: tuple[Score, ...]
    plain: tuple[Score, ...]
    products: Score
    local: Score | None
    local_flops: float  # of a token, where every other layer has a window
    peak_tflops: float | None  # of the GPU, where it is known

    @property
    def product(self) -> Score:
        """The faster of ours."""
        return min(self.ours, key=lambda score: score.seconds)

    @property
    def peer(self) -> Score:
        """The fastest plain loop."""
        return min(self.plain, key=lambda score: score.seconds)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.config.batch.train_batch_size * self.config.model.seq_length

    @property
    def product_rate(self) -> float:
        """Operations a second that the machine gives to the model's matrix products."""
        return product_flops(self.config.model, self.vocab_size, self.tokens) / self.products.seconds

    def rate(self, score: Score) -> float:
        """A step's operations a second, attention among them."""
        local = score is self.local
        flops = self.local_flops if local else flops_per_token(self.config.model, self.vocab_size)
        return flops * self.tokens / score.seconds

    def as_json(self) -> dict[str, Any]:
        """The row with its ratios, each the product's over the peer's."""
        return {
            "shape": self.shape,
            "precision": self.precision,
            "parameters": parameter_counts(self.config.model, self.vocab_size).total,
            "seq_length": self.config.model.seq_length,
            "micro_batch_size": self.config.batch.train_micro_batch_size_per_gpu,
            "matrix_product_flops_per_sec": self.product_rate,
            "product": self.product.name,
            "peer": self.peer.name,
            "speed_ratio": self.peer.seconds / self.product.seconds,
            "cpu_seconds_ratio": self.product.cpu_seconds / self.peer.cpu_seconds,
            "memory_ratio": self.product.peak_bytes / self.peer.peak_bytes,
            **({"local_ratio": self.product.seconds / self.local.seconds} if self.local else {}),
            "contestants": [
                {
                    **asdict(score),
                    "tokens_per_sec": self.tokens / score.seconds,
                    "share_of_matrix_products": self.rate(score) / self.product_rate,
                    **({"mfu": self.rate(score) / (1e12 * self.peak_tflops)} if self.peak_tflops else {}),
                }
                for score in (*self.ours, *([self.local] if self.local else []), *self.plain)
            ],
        }


def bench_train(bench: TrainBench, console: Console) -> dict[str, Any]:
    """Measure, with a line on the console for each contest; the result as `--json` prints it."""
    rows = []
    for shape in bench.shapes:
        for precision in bench.precisions:
            console.print(f"{shape}, {precision} ...")
            rows.append(_row(bench, shape, precision))
    return {
        "benchmark": "train",
        "machine": machine(bench.device),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "megatron-core")},
        "rounds": bench.rounds,
        "rows": [row.as_json() for row in rows],
    }


def _row(bench: TrainBench, shape: str, precision: str) -> Row:
    config_of = partial(
        bench_config,
        shape,
        precision=precision,
        device=bench.device,
        seq_length=bench.seq_length,
        micro_batch_size=bench.micro_batch_size,
    )
    configs = [config_of(compiled=compiled) for compiled in bench.compiled]
    vocab_size = SHAPES[shape].vocab_size
    vocabulary = ("--vocab-size", str(vocab_size))
    ours = [
        Entry(f"neox{' compiled' if compiled else ''}", "run_neox.py", vocabulary, config, launched=True)
        for compiled, config in zip(bench.compiled, configs)
    ]
    windows = config_of(compiled=bench.compiled[-1], local=True)
    local = [Entry(f"{ours[-1].name}, local", "run_neox.py", vocabulary, windows, launched=True)] if bench.local else []
    plain = [
        Entry(
            f"plain {mode}{' compiled' if compiled else ''}",
            "run_plain.py",
            (*vocabulary, "--precision", mode, *(["--compiled"] if compiled else [])),
            configs[0],
        )
        for mode in PRECISIONS[precision]
        for compiled in bench.compiled
    ]
    products = Entry(PRODUCTS, "run_products.py", vocabulary, configs[0], launched=True)
    scores = contest(
        [*ours, *plain, products, *local],
        device=bench.device,
        rounds=bench.rounds,
        steps_per_turn=bench.steps_per_turn or SHAPES[shape].steps_per_turn[bench.device],
    )
    first, last = len(ours), len(ours) + len(plain)
    gpu = machine(bench.device).get("gpu")
    return Row(
        shape,
        precision,
        configs[0],
        vocab_size,
        ours=tuple(scores[:first]),
        plain=tuple(scores[first:last]),
        products=scores[last],
        local=scores[-1] if local else None,
        local_flops=flops_per_token(windows.model, vocab_size),
        peak_tflops=known_peak_tflops(gpu, precision) if gpu else None,
    )


def machine(device: str) -> dict[str, Any]:
    """The processor, and the GPU where it is used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    facts = {"device": device, "cpu": names[0] if names else platform.machine(), "cores": usable_cores()}
    # asked of the driver's tool: containers do not always show the driver's files
    gpus = _output_lines("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") if device == "cuda" else []
    return facts | ({"gpu": gpus[0]} if gpus else {})


def _output_lines(*command: str) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []


def print_result(result: dict[str, Any], console: Console) -> None:
    """The tables, one for each shape and precision."""
    facts = result["machine"]
    console.print(f"{facts.get('gpu', facts['cpu'])}, {facts['cores']} cores, torch {result['versions']['torch']}")
    for row in result["rows"]:
        console.print(_table(row))


def _table(row: dict[str, Any]) -> Table:
    rate = row["matrix_product_flops_per_sec"] / 1e12
    table = Table(
        title=f"{row['shape']}, {row['precision']}: {row['parameters']:,} parameters, {row['micro_batch_size']} x "
        f"{row['seq_length']} tokens; matrix products alone reach {rate:.2f} TFLOP/s",
        title_justify="left",
    )
    headings = ["", "tokens/s", "s/step", "CPU s/step", "share of products", "peak MiB", "imports MiB", "loss"]
    on_known_gpu = "mfu" in row["contestants"][0]
    for heading in [*headings, "MFU"] if on_known_gpu else headings:
        table.add_column(heading, justify="right" if heading else "left")
    for entry in row["contestants"]:
        table.add_row(
            entry["name"],
            f"{entry['tokens_per_sec']:,.0f}",
            f"{entry['seconds']:.3f}",
            f"{entry['cpu_seconds']:.3f}",
            f"{entry['share_of_matrix_products']:.1%}",
            f"{entry['peak_bytes'] / 2**20:,.0f}",
            f"{entry['import_bytes'] / 2**20:,.0f}",
            f"{entry['loss']:.3f}",
            *([f"{entry['mfu']:.1%}"] if on_known_gpu else []),
        )
    table.caption = (
        f"{row['product']} against {row['peer']}: {row['speed_ratio']:.3f}x the tokens/s, {row['cpu_seconds_ratio']:.3f}x the CPU-seconds, "
        f"{row['memory_ratio']:.3f}x the peak memory"
        + (f"; with windows {row['local_ratio']:.3f}x the tokens/s" if "local_ratio" in row else "")
    )
    table.caption_justify = "left"
    return table
