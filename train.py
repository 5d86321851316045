"""Train a model: every rank runs this, started by `python deepy.py train.py CONFIG...`."""

import os
import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # until the run hears it, Ctrl-C ends this in silence: it may come within an import
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from neox.checkpoint.layout import CheckpointError
from neox.config.errors import ConfigError
from neox.config.handover import config_from_argv
from neox.launch.streams import outlive_readers
from neox.parallel.agreement import say_once
from neox.parallel.meeting import MissingRanks
from neox.training.guard import NonFiniteLoss
from neox.training.out_of_memory import OutOfMemory, explained
from neox.training.pretrain import pretrain

FAILED, REFUSED = 1, 2
STOPPED = 75  # EX_TEMPFAIL: saved, start again to resume


def main() -> int:
    """Exit code of this rank: 0 done, 1 failed, 2 refused before the first step, 75 stopped after saving."""
    outlive_readers()
    try:
        config = config_from_argv(sys.argv)
        with explained(config):
            outcome = pretrain(config)
    except (ConfigError, MissingRanks, CheckpointError, NonFiniteLoss, OutOfMemory) as error:
        say_once(f"error: {error}")
        return REFUSED if isinstance(error, ConfigError) else FAILED
    if not outcome.interrupted:
        return 0
    return STOPPED if outcome.saved else FAILED


if __name__ == "__main__":
    exit_code = main()
    if exit_code in (FAILED, REFUSED):
        # the groups of processes still stand, and their threads may abort the process while Python ends: the exit code is to count
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
