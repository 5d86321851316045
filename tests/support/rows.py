"""A script for deepy.py that trains several configs one after another in the same processes.

Imports cost seconds a process, so a table of runs whose subject is not the launcher shares one group of processes. NEOX_ROWS
lists the config files, separated by `:`; the config that deepy.py was given only says how many processes.
"""

import os
import sys
import time
import traceback
from pathlib import Path

import deepspeed
import deepspeed.utils.groups

from neox.config.read import read_config
from neox.launch.port import free_port
from neox.training.pretrain import pretrain


def forget_processes() -> None:
    """DeepSpeed keeps groups of the run before, which has left them."""
    deepspeed.comm.comm.cdb = None
    deepspeed.utils.groups._WORLD_GROUP = None
    deepspeed.utils.groups._EXPERT_PARALLEL_GROUP.clear()
    deepspeed.utils.groups._EXPERT_DATA_PARALLEL_GROUP.clear()


def meet(path: Path) -> None:
    """Agree on a new port for a row: on the old one, a fast rank would find the slow one's store of the row before."""
    agreed = path.with_suffix(".port")
    if os.environ["RANK"] == "0":
        draft = path.with_suffix(".port.draft")
        draft.write_text(str(free_port(None)))
        draft.rename(agreed)
    while not agreed.exists():
        time.sleep(0.01)
    os.environ["MASTER_PORT"] = agreed.read_text()


for path in os.environ["NEOX_ROWS"].split(":"):
    meet(Path(path))
    try:
        assert not pretrain(read_config([path]).config).interrupted
    except Exception:
        Path(path).with_suffix(".error").write_text(traceback.format_exc())
        sys.exit(1)  # the ranks are out of step from here on
    forget_processes()
