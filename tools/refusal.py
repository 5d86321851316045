"""How a tool tells that its input is wrong, or that it could not finish."""

from __future__ import annotations

import sys
from concurrent.futures.process import BrokenProcessPool

from neox.config.errors import ConfigError

WRONG_INPUT = 2
FAILED = 1
STOPPED = 75  # EX_TEMPFAIL
AGAIN = "What was done is kept: start the same command again to go on."
UNFINISHED = (BrokenProcessPool, OSError, KeyboardInterrupt)


def refuse(error: ConfigError) -> int:
    """Print every mistake on a line of its own; the exit code."""
    print(*(f"error: {complaint}" for complaint in error.complaints), sep="\n", file=sys.stderr)
    return WRONG_INPUT


def unfinished(error: BaseException) -> int:
    """Print why a job that goes on when it is started again ended early, by one of `UNFINISHED`; the exit code."""
    if isinstance(error, BrokenProcessPool):
        reason = "error: a worker process was killed (out of memory?): try fewer --workers"
    elif isinstance(error, KeyboardInterrupt):
        reason = "stopped: nothing was written under its name"
    else:
        reason = f"error: {error}: nothing was written under its name"
    print(f"{reason}. {AGAIN}", file=sys.stderr)
    return STOPPED if isinstance(error, KeyboardInterrupt) else FAILED
