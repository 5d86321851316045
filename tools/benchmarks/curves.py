"""The plan's step time of known models on more and more GPUs with one global batch, next to what others have published.

Nothing runs: the numbers are those of `deepy.py --dry-run`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from neox.config.gpus import GPUS
from neox.config.read import read_config
from neox.config.sizes import flops_per_token
from neox.config.step_time import Cluster, step_time
from tools.benchmarks.shapes import ROOT


@dataclass(frozen=True)
class Published:
    """What others measured."""

    gpus: int
    tflops_per_gpu: float
    with_recomputation: bool  # whether they count what is computed a second time
    source: str


@dataclass(frozen=True)
class Curve:
    """One model and layout on so many GPUs."""

    config: str  # under configs/
    gpu: str
    gpus: tuple[int, ...]
    vocab_size: int
    train_batch_size: int
    layout: tuple[str, ...]  # keys on top of the config
    published: tuple[Published, ...]


CURVES = (
    Curve(
        "20B.yml",
        "a100-40gb",
        (8, 24, 48, 96),
        50_277,
        1536,
        (),
        (Published(96, 117, True, "Black et al. 2022, arXiv:2204.06745"),),
    ),
    Curve(
        "175B.yml",
        "h100-80gb",
        (128, 256, 512, 1024),
        50_257,
        1152,
        ("pipe_parallel_size=8", "checkpoint_activations=false"),
        (
            Published(96, 465, False, "Megatron-LM, README: 47% of 989 TFLOP/s"),
            Published(4608, 415, False, "Megatron-LM, README: 42% of 989 TFLOP/s"),
        ),
    ),
)


def curves() -> list[dict[str, Any]]:
    """Each curve with the plan's figures."""
    return [{**asdict(curve), "points": [_point(curve, gpus) for gpus in curve.gpus]} for curve in CURVES]


def _point(curve: Curve, gpus: int) -> dict[str, Any]:
    overrides = [
        *curve.layout,
        f"global_num_gpus={gpus}",
        f"gpu={curve.gpu}",
        f"train_batch_size={curve.train_batch_size}",
        "gradient_accumulation_steps=",
    ]
    config = read_config([ROOT / "configs" / curve.config], overrides=overrides, dry_run=True).config
    time = step_time(config, curve.vocab_size, Cluster(GPUS[curve.gpu]))
    flops = flops_per_token(config.model, curve.vocab_size) * curve.train_batch_size * config.model.seq_length
    rate = flops / time.total / gpus / 1e12
    return {
        "gpus": gpus,
        "seconds_per_step": time.total,
        "tflops_per_gpu": rate,
        "tflops_per_gpu_with_recomputation": rate * (1 + time.recomputation / time.products),
        "utilization": rate / GPUS[curve.gpu].peak_tflops(config.precision.precision),
        "bubble_and_sends": time.pipeline / time.total,
        "data_parallel": time.data_parallel / time.total,
    }


def curve_table(curve: dict[str, Any]) -> Table:
    """One curve, and below it what was published."""
    rows = [
        f"published: {point['tflops_per_gpu']:g} on {point['gpus']:,} GPUs"
        f"{', with recomputation' if point['with_recomputation'] else ''} ({point['source']})"
        for point in curve["published"]
    ]
    title = f"the plan: {curve['config']}, {curve['gpu']}, {curve['train_batch_size']:,} samples a step"
    table = Table(title=title, title_justify="left", caption="\n".join(rows), caption_justify="left")
    headings = ("GPUs", "s/step", "TFLOP/s a GPU", "with recomputation", "of the peak", "pipeline", "data parallel")
    for heading in headings:
        table.add_column(heading, justify="right")
    for point in curve["points"]:
        table.add_row(
            f"{point['gpus']:,}",
            f"{point['seconds_per_step']:.1f}",
            f"{point['tflops_per_gpu']:.0f}",
            f"{point['tflops_per_gpu_with_recomputation']:.0f}",
            f"{point['utilization']:.1%}",
            f"{point['bubble_and_sends']:.1%}",
            f"{point['data_parallel']:.1%}",
        )
    return table
