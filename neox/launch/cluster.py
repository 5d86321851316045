"""Run pdsh, mpirun or srun with an agent on every host, pass signals on to the agents, and tell how it ended.

The agents hear through the launcher's standard input: the environment first, then a line for each signal. They end when it ends, also
where this process is killed; so one that failed ends the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType

from neox.config.errors import ConfigError
from neox.launch.argv import forwarded
from neox.launch.node import ENDING, ENDINGS
from neox.launch.supervise import DONE, FAILED, FORWARDED, GRACE_SECONDS, POLL_SECONDS, STOPPED, STOPPING


def check_installed(program: str) -> None:
    """`ConfigError` where the launcher's program is not on this machine."""
    if shutil.which(program) is None:
        raise ConfigError(f"launcher: {program} is not installed on this machine")


def run_on_hosts(
    argv: Sequence[str], environ: Mapping[str, str] = os.environ, grace_seconds: float = GRACE_SECONDS
) -> int:
    """Run the launcher's command to its end; 0, 1 or 75 as `supervise` means them."""
    return _Cluster(argv, environ, grace_seconds).run()


class _Cluster:
    """The launcher's process, and what its agents told."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], grace_seconds: float) -> None:
        self.argv = argv
        self.environ = environ
        self.grace_seconds = grace_seconds
        self.received: deque[int] = deque()
        self.interrupted = False
        self.endings: set[str] = set()

    def run(self) -> int:
        heard = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.receive) for number in heard}
        # in a session of its own: a Ctrl-C reaches the processes through their agents, once
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        reader = threading.Thread(target=self.pass_lines, daemon=True)
        reader.start()
        try:
            self.tell(json.dumps(forwarded(self.environ)))
            self.watch()
            reader.join(timeout=self.grace_seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self.exit_code()

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """A signal handler only notes what came; the loop passes it on."""
        self.received.append(number)

    def watch(self) -> None:
        """Wait for the end, passing signals on; agents that outlive a failure lose their input, and end."""
        failed_at = None
        while self.process.poll() is None:
            while self.received:
                self.pass_on(self.received.popleft())
            if failed_at is None and ENDINGS[FAILED] in self.endings:
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() > failed_at + self.grace_seconds:
                self.hang_up()
            time.sleep(POLL_SECONDS)

    def pass_on(self, number: int) -> None:
        if number in STOPPING and self.interrupted:
            print(f"{signal.Signals(number).name} again: killing every process", file=sys.stderr, flush=True)
            self.endings.add(ENDINGS[FAILED])
            self.hang_up()
        self.interrupted = self.interrupted or number in STOPPING
        self.tell(signal.Signals(number).name)

    def tell(self, line: str) -> None:
        """One line for every agent; those that are gone hear nothing."""
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def hang_up(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.close()

    def pass_lines(self) -> None:
        """Copy the output, but for the lines that tell how an agent ended."""
        for line in self.process.stdout:
            text = line.decode(errors="replace")
            if ENDING in text:
                self.endings.add(text.partition(ENDING)[2].strip())
                continue
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more: the run goes on
                sys.stdout.write(text)
                sys.stdout.flush()

    def exit_code(self) -> int:
        if self.process.returncode != DONE or ENDINGS[FAILED] in self.endings:
            return FAILED
        return STOPPED if ENDINGS[STOPPED] in self.endings else DONE
