"""`tools/bench.py train`: the training step of the product against a plain PyTorch loop, and against the machine."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neox.config.sections import Config
from neox.config.sizes import flops_per_token, parameter_counts
from tools.benchmarks.contest import Entry, Score, contest
from tools.benchmarks.plain import PRECISIONS
from tools.benchmarks.run_products import product_flops
from tools.benchmarks.shapes import SHAPES, bench_config, cores

PRODUCTS = "matrix products alone"


@dataclass(frozen=True)
class TrainBench:
    """What to measure."""

    device: str
    shapes: tuple[str, ...]
    precisions: tuple[str, ...]
    compiled: bool  # the product and the plain loop under torch.compile too
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

    def share(self, score: Score) -> float:
        """A step's operations a second, attention among them, as a share of that rate."""
        return flops_per_token(self.config.model, self.vocab_size) * self.tokens / score.seconds / self.product_rate

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
            "contestants": [
                {
                    **asdict(score),
                    "tokens_per_sec": self.tokens / score.seconds,
                    "share_of_matrix_products": self.share(score),
                }
                for score in (*self.ours, *self.plain)
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
    compilations = (False, True) if bench.compiled else (False,)
    configs = [
        bench_config(
            shape,
            precision=precision,
            device=bench.device,
            seq_length=bench.seq_length,
            micro_batch_size=bench.micro_batch_size,
            compiled=compiled,
        )
        for compiled in compilations
    ]
    vocab_size = SHAPES[shape].vocab_size
    vocabulary = ("--vocab-size", str(vocab_size))
    ours = [
        Entry(f"neox{' compiled' if compiled else ''}", "run_neox.py", vocabulary, config, launched=True)
        for compiled, config in zip(compilations, configs)
    ]
    plain = [
        Entry(
            f"plain {mode}{' compiled' if compiled else ''}",
            "run_plain.py",
            (*vocabulary, "--precision", mode, *(["--compiled"] if compiled else [])),
            configs[0],
        )
        for mode in PRECISIONS[precision]
        for compiled in compilations
    ]
    scores = contest(
        [*ours, *plain, Entry(PRODUCTS, "run_products.py", vocabulary, configs[0], launched=True)],
        device=bench.device,
        rounds=bench.rounds,
        steps_per_turn=bench.steps_per_turn or SHAPES[shape].steps_per_turn[bench.device],
    )
    return Row(
        shape, precision, configs[0], vocab_size, tuple(scores[: len(ours)]), tuple(scores[len(ours) : -1]), scores[-1]
    )


def machine(device: str) -> dict[str, Any]:
    """The processor, and the GPU where it is used."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    facts = {"device": device, "cpu": names[0] if names else platform.machine(), "cores": cores()}
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")) if device == "cuda" else []
    models = [line.split(":")[1].strip() for gpu in gpus for line in _lines(gpu) if line.startswith("Model")]
    return facts | ({"gpu": models[0]} if models else {})


def _lines(path: str | Path) -> list[str]:
    return Path(path).read_text().splitlines()


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
    for heading in ("", "tokens/s", "s/step", "CPU s/step", "share of products", "peak MiB", "imports MiB", "loss"):
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
        )
    table.caption = (
        f"{row['product']} against {row['peer']}: {row['speed_ratio']:.3f}x the tokens/s, {row['cpu_seconds_ratio']:.3f}x the CPU-seconds, "
        f"{row['memory_ratio']:.3f}x the peak memory"
    )
    table.caption_justify = "left"
    return table
