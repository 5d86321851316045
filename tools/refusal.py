"""How a tool tells that its input is wrong."""

from __future__ import annotations

import sys

from neox.config.errors import ConfigError

WRONG_INPUT = 2


def refuse(error: ConfigError) -> int:
    """Print every mistake on a line of its own; the exit code."""
    print(*(f"error: {complaint}" for complaint in error.complaints), sep="\n", file=sys.stderr)
    return WRONG_INPUT
