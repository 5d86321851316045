"""Weights from and to Hugging Face's transformers: GPT-NeoX and Pythia, Llama, Mistral, Mixtral, GPT-2,
GPT-Neo.

    python tools/convert_hf.py import --hf FOLDER --output CHECKPOINTS
    python deepy.py generate.py CHECKPOINTS/config.yml
    python tools/convert_hf.py export --checkpoint CHECKPOINTS --output FOLDER

What one side cannot say is refused by the name of its key. Exit codes: 0 done, 2 the input is wrong and nothing was
written, 1 the machine failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

# `python tools/convert_hf.py` puts tools/ on the path, not the folder above it that holds neox/
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from neox.checkpoint.layout import CheckpointError
from neox.config.errors import ConfigError
from neox.config.sections import PrecisionConfig
from tools.refusal import refuse

WANTED = "give what save_pretrained writes, or a download, as by: hf download EleutherAI/pythia-70m --local-dir FOLDER"
MODEL_TYPES = ("gpt_neox", "llama", "mistral", "mixtral", "gpt2", "gpt_neo")
PRECISIONS = get_args(get_args(PrecisionConfig.model_fields["precision"].annotation)[0])


def main(arguments: list[str]) -> int:
    """Run the tool; the exit code."""
    given = parse(arguments)
    if given.direction == "import" and not (given.hf / "config.json").is_file():
        what = "has no config.json" if given.hf.is_dir() else "is no folder here"
        return refuse(ConfigError(f"--hf: {given.hf} {what}: {WANTED}"))
    from neox.interop.huggingface import export_folder, import_folder  # noqa: PLC0415 (torch takes seconds to import)

    try:
        if given.direction == "import":
            result = import_folder(given.hf, given.output)
        else:
            result = export_folder(
                given.checkpoint,
                given.output,
                model_type=given.model_type,
                precision=given.precision,
                shard_bytes=int(given.shard_gigabytes * 1e9),
            )
    except ConfigError as error:
        return refuse(error)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}: nothing was written under its name", file=sys.stderr)
        return 1
    print(*(f"note: {note}" for note in result.notes), f"{result.folder}: {result.parameters:,} parameters", sep="\n")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; argparse exits with 2 where it does not make sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    directions = parser.add_subparsers(dest="direction", required=True)
    bring = directions.add_parser("import", help="a folder of transformers becomes a checkpoint")
    bring.add_argument("--hf", type=Path, required=True, metavar="DIR", help="folder with config.json and the weights")
    bring.add_argument("--output", type=Path, required=True, metavar="CKPT", help="new folder of the checkpoint")
    take = directions.add_parser("export", help="a checkpoint becomes a folder of transformers")
    take.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="CKPT",
        help="save folder of a run, or one step's folder in it",
    )
    take.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for transformers")
    take.add_argument("--model-type", choices=MODEL_TYPES, help="family (the first that can say the model)")
    take.add_argument("--precision", choices=PRECISIONS, default="fp32", help="number format of the weights (fp32)")
    take.add_argument("--shard-gigabytes", type=float, default=5.0, metavar="GB", help="largest file of weights (5)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
