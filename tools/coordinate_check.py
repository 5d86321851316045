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
from collections.abc import Sequence
from pathlib import Path

# `python tools/coordinate_check.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from tools.refusal import refuse
from tools.scaling.arguments import width_parser


def main(argv: Sequence[str]) -> int:
    """Run the tool with these arguments; returns the exit code."""
    options = _parser().parse_args(argv)
    from tools.scaling.coordinates import KINDS, Table, coordinates, slope  # noqa: PLC0415 (torch takes seconds to import)
    from tools.scaling.plots import draw_coordinates  # noqa: PLC0415
    from tools.scaling.widths import at_widths, read_samples  # noqa: PLC0415

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


def _parser() -> argparse.ArgumentParser:
    parser = width_parser(__doc__, "config files; data, batch and peak learning rate are theirs", 5, "updates")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the numbers and the plot")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
