"""The referee: processes that do the same step in different ways take turns, and are compared by their medians.

On a CPU all of them are alive at once and each waits while another works, so that the noise of a shared machine meets them alike. A
GPU is nobody else's, and its memory is for one: there they come one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from neox.config.handover import pack
from neox.config.resolve import cuda_devices
from neox.config.sections import Config
from neox.launch.argv import LOCAL_ADDRESS, Node, node_workers
from neox.launch.cores import usable_cores
from neox.launch.port import free_port
from tools.benchmarks.shapes import ROOT

FOLDER = Path(__file__).resolve().parent
WARMUP_STEPS = 2


@dataclass(frozen=True)
class Entry:
    """Who takes part.

    launched: started with all that our launcher sets, as the product is; others get the same threads, and nothing else.
    """

    name: str
    script: str  # in this folder
    arguments: tuple[str, ...]
    config: Config
    launched: bool = False


@dataclass(frozen=True)
class Score:
    """What a contestant's step cost."""

    name: str
    seconds: float  # median over the turns
    cpu_seconds: float
    peak_bytes: int  # resident memory of its process, or allocated on the GPU
    import_bytes: int  # of these, held before the model was built
    loss: float  # of the last step
    threads: int


class Contestant:
    """One running process."""

    def __init__(self, entry: Entry, device: str):
        self.name = entry.name
        self.turns: list[dict[str, float]] = []
        (worker,) = node_workers(
            Node(0, (0,), 1, LOCAL_ADDRESS, free_port(None)),
            [str(FOLDER / entry.script), "--config", pack(entry.config)],
            root=str(ROOT),
            environ=os.environ,
            cores=usable_cores(),
            devices=0 if device == "cpu" else cuda_devices(),
        )
        environment = dict(worker.environment)
        if not entry.launched:
            environment = {name: environment[name] for name in ("OMP_NUM_THREADS", "PYTHONPATH")}
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading)
        self._process = subprocess.Popen(
            [*worker.argv, "--answers", str(writing), *entry.arguments],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)

    def wait_until_ready(self) -> None:
        """Return once the model is built."""
        self._threads = self._answer()["threads"]

    def take_turn(self, steps: int, counts: bool = True) -> None:
        """Let it do so many steps, and keep what they cost where the turn counts."""
        turn = self._ask(str(steps))
        if counts:
            self.turns.append(turn)

    def finish(self) -> Score:
        """End the process; what it did."""
        memory = self._ask("stop")
        self._process.wait()
        return Score(
            name=self.name,
            seconds=median(turn["seconds"] for turn in self.turns),
            cpu_seconds=median(turn["cpu_seconds"] for turn in self.turns),
            peak_bytes=memory["peak_bytes"],
            import_bytes=memory["import_bytes"],
            loss=self.turns[-1]["loss"],
            threads=self._threads,
        )

    def stop(self) -> None:
        """End the process if it is still there."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._answers.close()

    def _ask(self, line: str) -> dict[str, Any]:
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with exit code {self._process.wait()}")
        return json.loads(line)


def contest(entries: Sequence[Entry], *, device: str, rounds: int, steps_per_turn: int) -> list[Score]:
    """Let all take turns, in one order and then in the other; scores in the order of the entries."""
    if device == "cuda" and len(entries) > 1:
        alone = ([entry] for entry in entries)
        return [contest(one, device=device, rounds=rounds, steps_per_turn=steps_per_turn)[0] for one in alone]
    with ExitStack() as stack:
        contestants = []
        for entry in entries:
            contestants.append(Contestant(entry, device))
            stack.callback(contestants[-1].stop)
        for contestant in contestants:
            contestant.wait_until_ready()
        for contestant in contestants:
            contestant.take_turn(WARMUP_STEPS, counts=False)
        for number in range(rounds):
            for contestant in contestants if number % 2 == 0 else reversed(contestants):
                contestant.take_turn(steps_per_turn)
        return [contestant.finish() for contestant in contestants]
