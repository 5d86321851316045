"""Train a model: every rank runs this, started by `python deepy.py train.py CONFIG...`."""

import sys

from neox.checkpoint.layout import CheckpointError
from neox.config.errors import ConfigError
from neox.config.handover import config_from_argv
from neox.training.guard import NonFiniteLoss
from neox.training.pretrain import pretrain

STOPPED = 75  # EX_TEMPFAIL: saved, start again to resume


def main() -> int:
    """Exit code of this rank: 0 done, 1 failed, 75 stopped after saving."""
    try:
        outcome = pretrain(config_from_argv(sys.argv))
    except (ConfigError, CheckpointError, NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    if not outcome.interrupted:
        return 0
    if not outcome.saved:
        print("stopped by a signal; nothing was saved: the config has no save key", file=sys.stderr, flush=True)
        return 1
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
