"""Runs that are killed, and start again until they are done.

A script: imports cost seconds a process, so the launcher and the ranks of every life fork from this one process, which has imported
everything and started nothing. The argument is the file of a JSON list of runs, {"config": path, "ends": [...]}: how each of a
run's first lives ends. [victim, instant] kills a rank by its number, the "launcher", or "all" ranks, at that instant, 0 to 1, of the
time that a whole run takes from its first step to its end; "POINT:ACTION:COUNT" is a fault of tests/faults on rank 0. The launcher
ends the ranks that are left as deepy.py's does. The last life ends by itself. Prints how many lives were cut short.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from neox.config.read import read_config
from neox.config.sections import Config
from neox.launch.port import free_port
from neox.launch.supervise import die_with
from neox.training import pretrain

FAULTS = f"{Path(__file__).parents[1]}/faults/sitecustomize.py"
GRACE_SECONDS = 5.0
DONE, KILLED, FAILED = 0, 1, 2


class Life:
    """One start of a run, from the first step of every rank on."""

    def __init__(self, config: Config, fault: str | None) -> None:
        words, told = os.pipe()
        self.launcher = os.fork()
        if not self.launcher:
            _launch(config, fault, told)
        os.close(told)
        self.words = os.fdopen(words)
        self.ranks: dict[int, int] = {}  # process ids
        while len(self.ranks) < config.parallel.world_size:
            line = self.words.readline()
            assert line, "a rank ended before its first step"
            rank, process = line.split()
            self.ranks[int(rank)] = int(process)

    def kill(self, victim: int | str) -> None:
        """SIGKILL to a rank, the launcher, or all ranks; one that has ended by itself does not mind."""
        victims = {"launcher": [self.launcher], "all": self.ranks.values()}.get(victim) or [self.ranks[victim]]
        for process in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def was_cut_short(self) -> bool:
        """Wait for the end of every process: where the launcher was killed, its ranks end with it."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.launcher, 0)[1])
        with self.words:
            self.words.read()  # each process holds an end of the pipe until it is gone
        assert code in (DONE, KILLED, -signal.SIGKILL), "a rank failed by itself"
        return code != DONE


def _launch(config: Config, fault: str | None, told: int) -> NoReturn:
    """Start the ranks and wait for them; the first that fails ends the others."""
    code, launcher, port = FAILED, os.getpid(), free_port(None)
    try:
        dies = die_with(launcher, signal.SIGKILL)
        world = range(config.parallel.world_size)
        waiting = {_fork(config, rank, port, told, fault if rank == 0 else None, dies) for rank in world}
        codes, kill_at = set(), None
        while waiting:
            process, status = os.waitpid(-1, os.WNOHANG)
            waiting.discard(process)
            if process:
                codes.add(os.waitstatus_to_exitcode(status))
            if any(codes) and kill_at is None:
                kill_at = time.monotonic() + GRACE_SECONDS
                _signal(waiting, signal.SIGTERM)
            if kill_at is not None and time.monotonic() > kill_at:
                _signal(waiting, signal.SIGKILL)
            time.sleep(0.01)
        code = KILLED if -signal.SIGKILL in codes else FAILED if any(codes) else DONE
    finally:
        os._exit(code)


def _signal(processes: set[int], number: int) -> None:
    for process in processes:
        os.kill(process, number)


def _fork(config: Config, rank: int, port: int, told: int, fault: str | None, dies: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    code = FAILED
    try:
        dies()
        world_size = str(config.parallel.world_size)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world_size}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if fault:
            os.environ["NEOX_FAULT"] = fault
            runpy.run_path(FAULTS)
        train = pretrain.train

        def tell(*args, **keywords):
            os.write(told, f"{rank} {os.getpid()}\n".encode())
            return train(*args, **keywords)

        pretrain.train = tell
        pretrain.pretrain(config)
        code = DONE
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(runs: list[dict]) -> None:
    duration, cut = math.inf, 0
    for run in runs:
        config = read_config([Path(run["config"])]).config
        for number, end in enumerate([*run["ends"], None]):
            life, started = Life(config, end if isinstance(end, str) else None), time.monotonic()
            if isinstance(end, list):
                victim, instant = end
                time.sleep(instant * duration)
                life.kill(victim)
            short = life.was_cut_short()
            assert end or not short
            cut += short
            if number == 0 and not short:  # the shortest: a machine that stalls once must not make every kill too late
                duration = min(duration, time.monotonic() - started)
    print(f"{cut} lives cut short")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
