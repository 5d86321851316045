"""Join token files to one pair: the shards of a preprocessing job, or data sets of one tokenizer.

    python tools/merge_datasets.py --input data/pile_*-of-00008_text_document.idx --output-prefix data/pile_text_document

keeps the documents and their order, and checks dtype, tokenizer and SHA-256. Exit codes: 0 done, 1 failed, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# `python tools/merge_datasets.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.config.errors import ConfigError
from neox.data.merge import merge_stores
from tools.refusal import refuse


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--input", nargs="+", required=True, metavar="PREFIX", help="token files, with or without .idx")
    parser.add_argument("--output-prefix", required=True, metavar="PREFIX", help="files are PREFIX.bin, .idx and .json")
    given = parser.parse_args(arguments)
    try:
        facts = merge_stores([name.removesuffix(".idx") for name in given.input], given.output_prefix)
    except ConfigError as error:
        return refuse(error)
    except OSError as error:
        print(f"error: {error}: nothing was written under its name", file=sys.stderr)
        return 1
    print(f"{given.output_prefix}.bin and .idx written: {facts.documents:,} documents, {facts.tokens:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
