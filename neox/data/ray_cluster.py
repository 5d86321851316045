"""Run commands as tasks of a Ray cluster whose machines share a disk. Knows nothing about what the commands do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from neox.config.errors import ConfigError

SECONDS_TO_STOP = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its place among the commands, what it printed, and the machine that it ran on."""

    index: int
    exit_code: int
    output: str
    host: str


class RayCluster:
    """A cluster that was joined, for as long as a `with` block of `joined` lasts."""

    def __init__(self, ray: Any):
        self._ray = ray

    def places(self, cores: int) -> int:
        """How many commands that take so many cores each can run at once; ConfigError where none can."""
        known = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        if max(known) < cores:
            raise ConfigError(
                f"--workers: {cores} cores are more than any machine of the Ray cluster has ({max(known)})"
            )
        return sum(count // cores for count in known)

    def run(self, commands: Sequence[Sequence[str]], folder: str, cores: int) -> Iterator[Ended]:
        """Run all commands in a folder that every machine sees; each as soon as it ends, in whatever order.

        Leaving early stops the others with SIGTERM. A command whose machine is lost is run again on another.
        """
        ray = self._ray

        @ray.remote(num_cpus=cores)
        def task(index: int, command: Sequence[str]) -> tuple[int, int, str, str]:
            # a function within another travels by value: the machines need Python and Ray, and nothing of ours to import
            import os  # noqa: PLC0415
            import socket  # noqa: PLC0415

            environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            process = subprocess.Popen(
                command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                while True:
                    try:
                        output, _ = process.communicate(
                            timeout=0.2
                        )  # a cancelled task is interrupted between two calls
                        return index, process.returncode, output, socket.gethostname()
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                process.terminate()
                process.wait()

        waiting = [task.remote(index, list(command)) for index, command in enumerate(commands)]
        try:
            while waiting:
                (done, *_), waiting = ray.wait(waiting)
                yield Ended(*ray.get(done))
        finally:
            for one in waiting:
                ray.cancel(one)
            if waiting:
                ray.wait(waiting, num_returns=len(waiting), timeout=SECONDS_TO_STOP)


@contextmanager
def joined(address: str) -> Iterator[RayCluster]:
    """Join the cluster at an address (`auto`: the one on this machine). ConfigError where Ray is not installed or none answers."""
    try:
        import ray  # noqa: PLC0415 (optional package)
    except ImportError as error:
        raise ConfigError("--ray needs `pip install ray`, the release that the cluster runs") from error
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"--ray {address}: no Ray cluster answers there, `ray start` begins one ({reason})"
        ) from error
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()
