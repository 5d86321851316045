"""Find the best learning rate of a configuration at several widths, with and without muP: with muP it is the same.

    python tools/learning_rates.py CONFIG... --widths 64 128 256 --rates 1e-3 2e-3 4e-3 8e-3 --steps 300 --output rates.json

Every run is trained on the same samples, on the CPU, and judged by its mean loss over the last tenth of the steps.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

# `python tools/learning_rates.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from neox.config.sections import Config
from neox.training.schedule import learning_rate
from tools.refusal import refuse
from tools.scaling.arguments import width_parser


def main(argv: Sequence[str]) -> int:
    """Run the tool with these arguments; returns the exit code."""
    options = _parser().parse_args(argv)
    from tools.scaling.widths import at_widths, losses, read_samples  # noqa: PLC0415 (torch takes seconds to import)

    overrides = [*options.overrides, f"train_iters={options.steps}"]
    try:
        configs = at_widths(options.config, overrides, options.widths)
        samples = read_samples(next(iter(configs.values())), options.steps)
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        return refuse(ConfigError(f"--output: {error}"))
    table: dict[str, dict[int, dict[float, float | None]]] = {}
    for (name, width), config in configs.items():
        row = table.setdefault(name, {}).setdefault(width, {})
        for rate in options.rates:
            found = losses(config, samples, _schedule(config, rate))
            end = fmean(found[-max(1, options.steps // 10) :])
            row[rate] = end if math.isfinite(end) else None
        words = (f"{rate:g}: {'diverged' if loss is None else f'{loss:.3f}'}" for rate, loss in row.items())
        print(f"{name:<9} width {width:>5}: {'  '.join(words)}", flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(table, indent=1))
    return 0


def _schedule(config: Config, peak: float) -> Iterator[float]:
    """The configuration's schedule with another peak."""
    share = peak / config.optimization.lr
    return (share * learning_rate(config.optimization, step) for step in range(config.batch.train_iters))


def _parser() -> argparse.ArgumentParser:
    parser = width_parser(
        __doc__, "config files; data, batch and schedule are theirs", 300, "optimizer steps of each run"
    )
    parser.add_argument("--rates", type=float, nargs="+", required=True, metavar="LR", help="peak learning rates")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for the losses")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
