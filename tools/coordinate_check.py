"""Coordinate check: train a configuration for a few steps at several widths, and see which activations grow with the width.

    python tools/coordinate_check.py CONFIG... --widths 64 128 256 512 --output logs/coordinates

One batch is repeated, on the CPU. Writes coordinates.json, with the mean absolute size of the activations of each kind at
each step, and coordinates.png. In muP the lines are level; in the standard parametrisation those of attention, MLP and logits
rise from the first update on (Yang et al., 2022, Tensor Programs V, arXiv:2203.03466, appendix D).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

# `python tools/coordinate_check.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy
from torch import Tensor, nn

from neox.config.errors import ConfigError
from neox.config.sections import Config
from neox.data.batches import Batch
from neox.model.gpt import GPT
from tools.refusal import refuse
from tools.scaling.plots import draw_coordinates
from tools.scaling.widths import Run, at_widths, read_samples, width_parser

KINDS = ("embedding", "attention", "MLP", "logits")
Sizes = list[dict[str, float]]  # step by step, mean absolute activation by kind
Table = dict[str, dict[int, Sizes]]  # by parametrisation and width


def main(argv: Sequence[str]) -> int:
    """Run the tool with these arguments; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        configs = at_widths(options.config, options.overrides, options.widths)
        samples = read_samples(next(iter(configs.values())), 1)
        options.output.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        return refuse(ConfigError(f"--output: {error}"))
    table: Table = {}
    for (name, width), config in configs.items():
        table.setdefault(name, {})[width] = coordinates(config, samples.vocab_size, samples.batches[0], options.steps)
    for name, by_width in table.items():
        slopes = {kind: slope(by_width, kind) for kind in KINDS}
        print(f"{name:<9}" + "  ".join(f"{kind} {steepness:+.2f}" for kind, steepness in slopes.items()))
    (options.output / "coordinates.json").write_text(json.dumps(table, indent=1))
    picture = options.output / "coordinates.png"
    draw_coordinates(table, KINDS, picture)
    print(f"above: d log(size) / d log(width) after {options.steps} updates; plot: {picture}")
    return 0


def coordinates(config: Config, vocab_size: int, batch: Batch, steps: int) -> Sizes:
    """Sizes before each of `steps` updates, and after the last, at the configuration's peak learning rate."""
    run = Run(config, vocab_size)
    sizes: Sizes = []
    watch(run.model, sizes)
    for _ in range(steps + 1):
        sizes.append(dict.fromkeys(KINDS, 0.0))
        run.step(batch, config.optimization.lr)
    return sizes


def watch(model: GPT, sizes: Sizes) -> None:
    """Add the mean absolute size of activations to the last of `sizes` as they come about; blocks count for their mean."""
    blocks = model.layers[1 : 1 + model.config.num_layers]

    def add(kind: str, share: float, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes[-1][kind] += share * output.detach().abs().mean().item()

    model.layers[0].register_forward_hook(partial(add, "embedding", 1.0))
    model.register_forward_hook(partial(add, "logits", 1.0))
    for block in blocks:
        block.attention.register_forward_hook(partial(add, "attention", 1 / len(blocks)))
        block.mlp.register_forward_hook(partial(add, "MLP", 1 / len(blocks)))


def slope(by_width: Mapping[int, Sizes], kind: str) -> float:
    """d log(size) / d log(width) after the last update, by least squares: 0 where the size does not depend on the width."""
    sizes = [sizes[-1][kind] for sizes in by_width.values()]
    return float(numpy.polyfit(numpy.log(list(by_width)), numpy.log(sizes), 1)[0])


def _parser() -> argparse.ArgumentParser:
    parser = width_parser(__doc__, "config files; data, batch and peak learning rate are theirs", 5, "updates")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the numbers and the plot")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
