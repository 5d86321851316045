"""Find the fastest layout of a run that fits a number of GPUs, before any of them is taken.

    python tools/plan.py configs/20B.yml --gpus 96 --gpu a100-40gb
    python tools/plan.py configs/175B.yml --gpus 1024 --gpu h100-80gb --top 5 --json

Tries every tensor x pipeline x data-parallel size, ZeRO stage, micro-batch and recomputation that keeps the rules, with the
global batch of the config, and ranks what fits by predicted tokens a second. docs/plan.md explains the model. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# `python tools/plan.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from rich.console import Console
from rich.table import Table

from deepy import vocabulary
from neox.config.errors import ConfigError
from neox.config.gpus import GPUS
from neox.config.load import did_you_mean
from neox.config.read import read_config
from neox.config.sections import Config
from neox.config.sizes import flops_per_token
from neox.config.step_time import EFFICIENCY, GPUS_PER_NODE, NETWORK_GB_PER_SECOND, Cluster
from neox.launch.search import Found, Layout, keeps_rules, reckon, search

NOTHING_FITS, WRONG_INPUT = 1, 2
TABLE_WIDTH = 140
OTHER_BATCH = (
    "the global batch follows from the config's own layout; for another number of GPUs give it, with a layout that divides them: "
    "--set train_batch_size=N model_parallel_size=1 pipe_parallel_size=1"
)


def main(argv: Sequence[str]) -> int:
    """Run the tool; the exit code: 0 where a layout fits, 1 where none does, 2 where the input is wrong."""
    options = _parser().parse_intermixed_args(argv)
    try:
        if options.gpu not in GPUS:
            hint = did_you_mean(options.gpu, GPUS) or f"; the known ones are {', '.join(GPUS)}"
            raise ConfigError(f"--gpu {options.gpu}: no GPU is known by that name{hint}")
        # as many processes as are asked for, whatever hosts the config names
        processes = ["launcher=local", "num_nodes=-1", f"global_num_gpus={options.gpus}", f"num_gpus={options.gpus}"]
        overrides = [*options.overrides, *processes]
        resolved = read_config(options.config, options.conf_dir, overrides, "train.py", dry_run=True)
        vocab_size, _ = vocabulary(resolved, dry_run=True)
    except ConfigError as error:
        print(error, file=sys.stderr)
        if "processes cannot be divided" in str(error):
            print(OTHER_BATCH, file=sys.stderr)
        return WRONG_INPUT
    cluster = Cluster(
        GPUS[options.gpu],
        gpus_per_node=options.gpus_per_node,
        network_gb_per_second=options.network,
        efficiency=options.efficiency,
        peak_tflops=resolved.config.monitor.peak_theoretical_tflops,
    )
    found = search(resolved.config, vocab_size, cluster)
    own = reckon(resolved.config, vocab_size, cluster) if keeps_rules(resolved.config, vocab_size) else None
    if options.json:
        print(json.dumps(_as_json(found, own, options.top, cluster, vocab_size)))
    else:
        _print(Console(width=TABLE_WIDTH, highlight=False), found, own, options.top, cluster, vocab_size)
    return 0 if found.fitting else NOTHING_FITS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", metavar="CONFIG", nargs="+", help="YAML files, read in order; .yml may be left out")
    parser.add_argument("-d", "--conf-dir", metavar="CONF_DIR", help="folder in which the files are")
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="override keys"
    )
    parser.add_argument("--gpus", type=_count, required=True, help="GPUs in all")
    parser.add_argument("--gpu", required=True, metavar="KIND", help=f"their kind: {', '.join(GPUS)}")
    parser.add_argument(
        "--gpus-per-node",
        type=_count,
        default=GPUS_PER_NODE,
        help="largest tensor-parallel group (default %(default)s)",
    )
    parser.add_argument(
        "--network",
        type=_positive,
        default=NETWORK_GB_PER_SECOND,
        metavar="GB/S",
        help="of each GPU to other machines, in one direction (default %(default)s)",
    )
    parser.add_argument(
        "--efficiency",
        type=_share,
        default=EFFICIENCY,
        help="share of the peak that matrix products reach (default %(default)s)",
    )
    parser.add_argument("--top", type=_count, default=10, help="layouts to show (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def _as_json(found: Found, own: Layout | None, top: int, cluster: Cluster, vocab_size: int) -> dict[str, Any]:
    def record(layout: Layout) -> dict[str, Any]:
        return {
            "keys": layout.keys,
            "data_parallel_size": layout.config.parallel.data_size,
            "tokens_per_second": layout.tokens_per_second,
            "tflops_per_gpu": _tflops(layout, vocab_size),
            "seconds_per_step": layout.time.total,
            "time": asdict(layout.time),
            "memory": {"per_gpu_bytes": layout.memory.total, **layout.memory.parts()},
            "fits": layout.memory.total <= cluster.gpu.memory_bytes,
        }

    return {
        "gpu_memory_bytes": cluster.gpu.memory_bytes,
        "tried": found.tried,
        "fitting": len(found.fitting),
        "layouts": [record(layout) for layout in found.fitting[:top]],
        "own": own and record(own),
        "smallest": found.smallest and record(found.smallest),
    }


def _print(console: Console, found: Found, own: Layout | None, top: int, cluster: Cluster, vocab_size: int) -> None:
    console.print(
        f"{found.tried:,} layouts keep the rules, {len(found.fitting):,} of them fit {cluster.gpu.memory_gib:g} GiB; "
        f"matrix products at {cluster.efficiency:.0%} of the peak, {cluster.network_gb_per_second:g} GB/s between machines"
    )
    table = Table(box=None, pad_edge=False)
    layout = ("", "tensor", "pipeline", "data", "ZeRO", "micro-batch", "accumulate", "recompute")
    for column in (*layout, "GiB", "tokens/s", "TFLOP/s", "s/step", "products", "links", "bubble"):
        table.add_column(column, justify="right")
    for place, layout in enumerate(found.fitting[:top], start=1):
        table.add_row(str(place), *_row(layout, vocab_size))
    if own is not None:
        table.add_row("as given", *_row(own, vocab_size))
    if not found.fitting and found.smallest is not None:
        table.add_row("smallest", *_row(found.smallest, vocab_size))
    console.print(table)
    if found.fitting:
        words = " ".join(f"{key}={json.dumps(value)}" for key, value in found.fitting[0].keys.items())
        console.print(f"the first of them: --set {words}")
    else:
        console.print("no layout fits: take more GPUs or larger ones, or offload the optimizer to the host")


def _row(layout: Layout, vocab_size: int) -> list[str]:
    config, time = layout.config, layout.time
    links = time.tensor_parallel + time.data_parallel
    return [
        str(config.parallel.tensor_size),
        str(config.parallel.pipe_size),
        str(config.parallel.data_size),
        str(config.optimization.zero_stage),
        str(config.batch.train_micro_batch_size_per_gpu),
        str(config.batch.gradient_accumulation_steps),
        _recomputed(config),
        f"{layout.memory.total / 2**30:.1f}",
        f"{layout.tokens_per_second:,.0f}",
        f"{_tflops(layout, vocab_size):.0f}",
        f"{time.total:.3g}",
        *(f"{part / time.total:.0%}" for part in (time.products + time.recomputation, links, time.pipeline)),
    ]


def _recomputed(config: Config) -> str:
    if not config.recompute.checkpoint_activations:
        return "no"
    some = config.recompute.recompute_num_layers
    return "yes" if some is None else f"{some} blocks"


def _tflops(layout: Layout, vocab_size: int) -> float:
    """Operations a second of one GPU, recomputation not counted."""
    flops = flops_per_token(layout.config.model, vocab_size) * layout.tokens_per_second
    return flops / layout.config.parallel.world_size / 1e12


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and up to 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
