"""Runs that are killed, and start again until they are done.

A script: imports cost seconds a process, so the ranks of every life fork from this one process, which has imported everything and
started nothing. The argument is the file of a JSON list of runs, {"config": path, "ends": [...]}: how each of a run's first lives
ends. [rank, instant] kills one rank at that instant, 0 to 1, of the time that the first run took from its first step to its end;
"POINT:ACTION:COUNT" is a fault of tests/faults on rank 0. The other ranks are killed then, as by the launcher. The last life
ends by itself. Prints how many lives were cut short.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch._inductor.select_algorithm  # noqa: F401 (torch would import it in every life, which takes longer than the rest)

from neox.config.read import read_config
from neox.config.sections import Config
from neox.launch.port import free_port
from neox.training import pretrain

READY = b"."
FAULTS = Path(__file__).parents[1] / "faults" / "sitecustomize.py"


class Life:
    """One start of a run, from its first step on."""

    def __init__(self, config: Config, fault: str | None) -> None:
        port = free_port(None)
        beginnings, begun = os.pipe()
        self.ranks = [
            _fork(config, rank, port, begun, fault if rank == 0 else None) for rank in range(config.parallel.world_size)
        ]
        os.close(begun)
        assert os.read(beginnings, 1) == READY, "a rank ended before its first step"
        os.close(beginnings)

    def kill(self, rank: int) -> None:
        """SIGKILL to one rank, and then to the others."""
        for process in (self.ranks[rank], *self.ranks):
            os.kill(process, signal.SIGKILL)

    def was_cut_short(self) -> bool:
        """Wait for the end of every rank: where one was killed, the others are."""
        codes = []
        waiting = set(self.ranks)
        while waiting:
            process, status = os.wait()
            waiting.discard(process)
            codes.append(os.waitstatus_to_exitcode(status))
            if codes[-1]:
                for other in waiting:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(other, signal.SIGKILL)
        assert -signal.SIGKILL in codes or not any(codes), f"exit codes {codes}"
        return any(codes)


def _fork(config: Config, rank: int, port: int, begun: int, fault: str | None) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        world_size = str(config.parallel.world_size)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world_size}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if fault:
            _install(fault)
        train = pretrain.train

        def tell(*args, **keywords):
            os.write(begun, READY)
            return train(*args, **keywords)

        pretrain.train = tell
        pretrain.pretrain(config)
        code = 0
    finally:
        os._exit(code)


def _install(fault: str) -> None:
    spec = importlib.util.spec_from_file_location("faults", FAULTS)
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    point, action, count = fault.split(":")
    module, function, when = faults.POINTS[point]
    original = getattr(sys.modules[module], function)
    setattr(sys.modules[module], function, faults.wrap(original, when, faults.ACTIONS[action], [int(count)]))


def main(runs: list[dict]) -> None:
    duration, cut = 0.0, 0
    for run in runs:
        config = read_config([Path(run["config"])]).config
        for end in run["ends"]:
            fault = end if isinstance(end, str) else None
            life = Life(config, fault)
            if not fault:
                rank, instant = end
                time.sleep(instant * duration)
                life.kill(rank)
            cut += life.was_cut_short()
        life, started = Life(config, None), time.monotonic()
        assert not life.was_cut_short()
        duration = duration or time.monotonic() - started
    print(f"{cut} lives cut short")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
