"""Import a checkpoint of gpt-neox, of any tensor-parallel size, with or without a pipeline.

    python tools/convert_neox.py --checkpoint RUN/global_step1000 --config RUN/configs/*.yml --output CHECKPOINTS
    python deepy.py generate.py CHECKPOINTS/config.yml

Exit codes: 0 done, 2 the input is wrong and nothing was written, 1 the machine failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# `python tools/convert_neox.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from tools.refusal import refuse


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR", help="a global_step folder of gpt-neox"
    )
    parser.add_argument("--config", type=Path, required=True, nargs="+", metavar="YAML", help="the run's YAML files")
    parser.add_argument("--output", type=Path, required=True, metavar="CKPT", help="new folder of the checkpoint")
    given = parser.parse_args(arguments)
    from neox.interop.gptneox import import_gptneox  # noqa: PLC0415 (torch takes seconds to import)

    try:
        result = import_gptneox(given.checkpoint, given.config, given.output)
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        print(f"error: {error}: nothing was written under its name", file=sys.stderr)
        return 1
    print(*(f"note: {note}" for note in result.notes), f"{result.folder}: {result.parameters:,} parameters", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
