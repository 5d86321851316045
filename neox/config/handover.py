"""Hand the resolved configuration from the launcher to each process: every rank unpacks the same bytes.

It travels as one argument, `--config TEXT`: base64 of compressed JSON, or `@FILE` where that is too long for an
argument: a file that every rank can read. Secrets never travel this way: they stay in the environment.
"""

from __future__ import annotations

import argparse
import base64
import zlib
from collections.abc import Sequence
from pathlib import Path

from neox.config.errors import ConfigError
from neox.config.sections import Config

FILE_NAME = "config.packed"
LONGEST_ARGUMENT = 100_000  # bytes; Linux refuses a single argument of 128 KiB


def pack(config: Config) -> str:
    """The configuration as text of letters, digits, `-`, `_` and `=`."""
    return base64.urlsafe_b64encode(zlib.compress(config.model_dump_json().encode(), 9)).decode()


def unpack(text: str) -> Config:
    """The configuration that `pack` made text of, or that lies in the file of `@FILE`; `ConfigError` where the text is damaged."""
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text()
        return Config.model_validate_json(zlib.decompress(base64.urlsafe_b64decode(text)))
    except (OSError, ValueError, zlib.error) as error:  # of base64, UTF-8 and pydantic: all ValueErrors
        raise ConfigError(f"--config: this is no packed configuration ({type(error).__name__}: {error})") from error


def argument(packed: str, folder: Path) -> str:
    """The packed configuration where it fits in an argument, else `@FILE` of the file in the folder that holds it too."""
    return packed if len(packed) <= LONGEST_ARGUMENT else f"@{folder / FILE_NAME}"


def config_from_argv(argv: Sequence[str]) -> Config:
    """The configuration of a script that `deepy.py` started, from its `sys.argv`.

    Raises `ConfigError` where `--config` is missing or damaged.
    """
    parser = argparse.ArgumentParser(prog=argv[0], add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    arguments, _ = parser.parse_known_args(argv[1:])
    if arguments.config is None:
        raise ConfigError(f"{argv[0]} is started by deepy.py: python deepy.py {Path(argv[0]).name} CONFIG...")
    return unpack(arguments.config)
