"""Write a checkpoint anew in other files. No run needs it: every layout reads the checkpoints of every other.

    python tools/reshard.py --checkpoint checkpoints/20B --output checkpoints/20B-tp4 --tensor-parallel 4
    python tools/reshard.py --checkpoint checkpoints/shakespeare --output checkpoints/released --weights-only

It joins the thousands of files that a large run writes, cuts weights so that processes of another tensor-parallel size read no more than
their own share, and leaves the optimizer's moments out of what is passed on (two thirds of the bytes). Numbers stay the same to the bit.
Exit codes: 0 done, 2 the input is wrong and nothing was written, 1 the machine failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# `python tools/reshard.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from neox.checkpoint.layout import CheckpointError
from neox.config.errors import ConfigError
from tools.refusal import refuse


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="CKPT", help="a save folder, or the folder of one step in it")
    add("--output", type=Path, required=True, metavar="DIR", help="new save folder")
    add("--tensor-parallel", type=int, default=1, metavar="N", help="cut for so many tensor-parallel processes (1)")
    add("--weights-only", action="store_true", help="leave moments, progress and data behind: the checkpoint of step 0")
    given = parser.parse_args(arguments)
    if given.tensor_parallel < 1:
        parser.error("--tensor-parallel: a number of processes is 1 or more")
    from neox.checkpoint.newest import named  # noqa: PLC0415 (torch takes seconds to import)
    from neox.checkpoint.rewrite import rewrite  # noqa: PLC0415

    try:
        folder, warnings = named(given.checkpoint)
        for line in warnings:
            print(line, file=sys.stderr)
        written = rewrite(folder, given.output, tensor_size=given.tensor_parallel, weights_only=given.weights_only)
    except CheckpointError as error:
        return refuse(ConfigError(str(error)))
    except OSError as error:
        print(f"error: {error}: nothing was written under its name", file=sys.stderr)
        return 1
    print(f"{folder} written to {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
