"""The models that are measured, by name: a shipped config, with what the benchmark needs on top of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neox.config.read import read_config
from neox.config.sections import Config, ModelConfig
from neox.config.shapes import ffn_width
from neox.config.sizes import padded_vocab_size

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class BenchShape:
    """One model of the benchmark."""

    config: str  # file under configs/
    vocab_size: int  # unpadded
    micro_batch_size: dict[str, int]  # by device
    steps_per_turn: dict[str, int]
    overrides: tuple[str, ...] = ()


def _larger(layers: int, hidden: int, heads: int, on_gpu: int) -> BenchShape:
    """125M made larger. on_gpu: samples that fit 80 GB, beside the plain loop's fp32 weights too (docs/plan.md counts them)."""
    sizes = (f"num_layers={layers}", f"hidden_size={hidden}", f"num_attention_heads={heads}")
    return BenchShape("125M.yml", 50_257, {"cpu": 1, "cuda": on_gpu}, {"cpu": 1, "cuda": 10}, sizes)


SHAPES = {
    "quickstart": BenchShape("shakespeare.yml", 512, {"cpu": 16, "cuda": 16}, {"cpu": 8, "cuda": 50}),
    "125M": BenchShape("125M.yml", 50_257, {"cpu": 1, "cuda": 16}, {"cpu": 1, "cuda": 10}),
    "350M": _larger(24, 1024, 16, on_gpu=16),
    "1.3B": _larger(24, 2048, 16, on_gpu=8),
    "2.7B": _larger(32, 2560, 20, on_gpu=3),
}
# GPT-Neo's: every other layer sees so many tokens
LOCAL = ('attention_config=[[["global", "local"], "all"]]', "window_size=256")

# how the plain loops of tools/benchmarks/plain.py compute in each precision
PRECISIONS = {"fp32": ("fp32",), "bf16": ("autocast", "masters")}


def bench_config(
    name: str,
    *,
    precision: str,
    device: str,
    seq_length: int | None = None,
    micro_batch_size: int | None = None,
    compiled: bool = False,
    local: bool = False,
) -> Config:
    """The resolved configuration of a named shape: one process, one micro-batch a step, nothing recomputed.

    local: with every other layer's attention in a window.
    """
    shape = SHAPES[name]
    batch = micro_batch_size or shape.micro_batch_size[device]
    overrides = [
        *shape.overrides,
        *(LOCAL if local else ()),
        f"precision={precision}",
        f"compile_blocks={'true' if compiled else 'false'}",
        f"distributed_backend={'gloo' if device == 'cpu' else 'nccl'}",
        f"train_micro_batch_size_per_gpu={batch}",
        f"train_batch_size={batch}",
        "num_gpus=1",
        "checkpoint_activations=false",
    ]
    if seq_length is not None:
        overrides.append(f"seq_length={seq_length}")
    # a dry run: the data set need not be there, its place is taken by random tokens
    return read_config([ROOT / "configs" / shape.config], overrides=overrides, dry_run=True).config


def layer_products(model: ModelConfig, vocab_size: int) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how often) of the model's linear layers."""
    hidden, width = model.hidden_size, ffn_width(model)
    block = [(hidden, 3 * hidden), (hidden, hidden), (hidden, width), (width, hidden)]
    head = (hidden, padded_vocab_size(model, vocab_size), 1)
    return [(inputs, outputs, model.num_layers) for inputs, outputs in block] + [head]


def product_flops(model: ModelConfig, vocab_size: int, tokens: int) -> float:
    """Operations of all their products, forward and backward."""
    return sum(6.0 * tokens * inputs * outputs * count for inputs, outputs, count in layer_products(model, vocab_size))
