"""How many threads, or processes of one thread, this machine may run at once."""

from __future__ import annotations

import math
import os
from pathlib import Path

SYSTEM = Path("/sys")


def usable_cores(system: Path = SYSTEM) -> int:
    """Cores that this process may use: of those that it is bound to, each once, and no more than its control group grants.

    Two hardware threads of a core share what matrix products are made with: a second thread there only disturbs the first, and
    torch by itself starts as many threads as there are cores. A container with a quota is stopped for a while where it takes more.
    """
    cores = {_siblings(system, cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _granted(system)))


def usable_processors(system: Path = SYSTEM) -> int:
    """As `usable_cores`, with each hardware thread: for work on text, which leaves a core room for a second one."""
    return max(1, min(len(os.sched_getaffinity(0)), _granted(system)))


def _siblings(system: Path, cpu: int) -> str:
    """The hardware threads of the core that a processor belongs to; itself where the system does not tell."""
    try:
        return (system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _granted(system: Path) -> float:
    """Processors' time of the control group, in processors: version 2 tells in one file, version 1 in two."""
    group = system / "fs/cgroup"
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit():  # not "max", nor -1
            return math.ceil(int(quota) / int(period))
    return math.inf
