"""Look into a checkpoint: whether every byte is as it was saved, what it holds, and where it differs from another.

    python tools/inspect_checkpoint.py checkpoints/shakespeare                          # the newest good one
    python tools/inspect_checkpoint.py checkpoints/shakespeare --weights                # and each of its weights
    python tools/inspect_checkpoint.py checkpoints/shakespeare/global_step200 --against checkpoints/shakespeare

Each name is a `save` folder or the folder of one step. Exit codes: 0 done, 2 a checkpoint is damaged, or there is none.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# `python tools/inspect_checkpoint.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from rich.console import Console
from rich.table import Table

from neox.checkpoint.layout import CheckpointError
from neox.config.errors import ConfigError
from tools.refusal import refuse

TABLE_WIDTH = 130


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a save folder, or the folder of one step")
    parser.add_argument("--weights", action="store_true", help="list every weight: shape, mean, deviation, largest")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKPOINT", help="list the weights that differ from another's"
    )
    given = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:  # a file has no width
        console.width = TABLE_WIDTH
    try:
        _show(given, console)
    except CheckpointError as error:
        return refuse(ConfigError(str(error)))
    return 0


def _show(given: argparse.Namespace, console: Console) -> None:
    from neox.checkpoint import inspection  # noqa: PLC0415 (torch takes seconds to import)
    from neox.checkpoint.newest import named  # noqa: PLC0415

    folder, warnings = named(given.checkpoint)
    for line in (*warnings, folder):
        console.print(line)
    table = Table(box=None, show_header=False, pad_edge=False)
    for subject, words in inspection.summary(folder):
        table.add_row(subject, words)
    console.print(table)
    if given.weights:
        table = Table("weight", "shape", "cut along", "mean", "deviation", "largest", box=None, pad_edge=False)
        for name, shape, cut, *values in inspection.weights(folder):
            table.add_row(name, shape, cut, *(f"{value:.3g}" for value in values))
        console.print(table)
    if given.against is not None:
        other, warnings = named(given.against)
        differing, equal = inspection.differences(folder, other)
        for line in (*warnings, f"against {other}: {len(differing):,} weights differ, {equal:,} are equal to the bit"):
            console.print(line)
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, words in differing:
            table.add_row(name, words)
        console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
