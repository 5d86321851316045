"""Serve a checkpoint over HTTP: started by `python deepy.py serve.py CONFIG...`."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # until the run hears it, Ctrl-C ends this in silence: it may come within an import
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from neox.checkpoint.layout import CheckpointError
from neox.config.errors import ConfigError
from neox.config.handover import config_from_argv
from neox.inference.serve import serve

FAILED, REFUSED = 1, 2


def main() -> int:
    """Exit code: 0 told to stop, 1 it failed, or the checkpoint cannot be read or does not fit, 2 something else is wrong with the
    input."""
    try:
        return 0 if serve(config_from_argv(sys.argv)) else FAILED
    except (ConfigError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return REFUSED if isinstance(error, ConfigError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
