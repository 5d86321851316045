"""Start runs of `deepy.py` that fork from one process, which has imported what they import (`support.warm`)."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
LONGEST_WORD = 1000  # bytes


class Warm:
    """The process from which runs fork."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.warm", str(theirs.fileno())],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
                    "OMP_NUM_THREADS": "1",
                    "CUDA_VISIBLE_DEVICES": "",
                    "DS_ACCELERATOR": "cpu",
                },
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._codes: dict[int, int] = {}
        atexit.register(self._end)

    def start(self, argv: Sequence[str], environment: Mapping[str, str], streams: Sequence[int]) -> int:
        """Start `python ARGV...`, with descriptors for its input, output and errors; returns its process id."""
        request = {"argv": argv, "environment": dict(environment)}
        socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
        told = {}
        while "started" not in told:
            told = self._hear(wait=True)
        return told["started"]

    def code(self, process: int, wait: bool) -> int | None:
        """Exit code of a process, None where it runs and nobody waits."""
        while process not in self._codes and self._hear(wait):
            pass
        return self._codes.get(process)

    def _end(self) -> None:
        self._channel.close()
        self._process.wait()

    def _hear(self, wait: bool) -> dict | None:
        if not wait and not select.select([self._channel], [], [], 0)[0]:
            return None
        word = self._channel.recv(LONGEST_WORD)
        assert word, "the process from which runs fork has ended"
        told = json.loads(word)
        if "ended" in told:
            self._codes[told["ended"]] = told["code"]
        return told


# one for each process of pytest, and ends with it
warm = functools.cache(Warm)


class Fork:
    """`python ARGV...` in the project's folder: of subprocess.Popen what tests use. What it prints goes into the file, or to `stdout`."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], output: IO | None = None) -> None:
        self.stdout: IO[str] | None = None
        if output is None:
            reading, writing = os.pipe()
            self.stdout, output = open(reading), open(writing, "wb")  # noqa: SIM115
        with open(os.devnull) as nothing:
            streams = [nothing.fileno(), output.fileno(), output.fileno()]
            self.pid = warm().start(argv, environment, streams)
        if self.stdout:
            output.close()
        self.returncode: int | None = None
        self._reader: threading.Thread | None = None
        self._said = ""

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        self.returncode = warm().code(self.pid, wait=False)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it where it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        self.returncode = warm().code(self.pid, wait=True)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it prints until it ends, and nothing else; subprocess.TimeoutExpired where that takes longer, and one may ask again."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        self._reader.join(timeout)
        if self._reader.is_alive():
            raise subprocess.TimeoutExpired("deepy.py", timeout)
        self.wait()
        return self._said, None

    def _read(self) -> None:
        if not self.stdout.closed:
            self._said = self.stdout.read()
