"""A script for deepy.py that trains several configs one after another in the same processes.

Imports cost seconds a process, so a table of runs whose subject is not the launcher shares one group of processes. NEOX_ROWS
lists the config files, separated by `:`; the config that deepy.py was given only says how many processes.
"""

import os
import sys
import traceback
from pathlib import Path

import deepspeed
import deepspeed.utils.groups

from neox.config.read import read_config
from neox.training.pretrain import pretrain


def forget_processes() -> None:
    """DeepSpeed keeps groups of the run before, which has left them."""
    deepspeed.comm.comm.cdb = None
    deepspeed.utils.groups._WORLD_GROUP = None


first_port = int(os.environ["MASTER_PORT"])
for number, path in enumerate(os.environ["NEOX_ROWS"].split(":")):
    # a fast rank would find the slow one's store of the row before
    os.environ["MASTER_PORT"] = str(first_port + number)
    try:
        assert not pretrain(read_config([path]).config).interrupted
    except Exception:
        Path(path).with_suffix(".error").write_text(traceback.format_exc())
        sys.exit(1)  # the ranks are out of step from here on
    forget_processes()
