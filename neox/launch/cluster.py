"""Run pdsh, mpirun, mpiexec, srun or torchrun with an agent on every host, pass signals on to the agents, and tell how it ended.

The agents read their orders in a file, and end where their standard input does: with this process, also where it is killed. One that
failed ends the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from neox.config.errors import ConfigError
from neox.config.hosts import Host
from neox.launch.argv import forwarded
from neox.launch.heard import POLL_SECONDS, STOPPING, heard
from neox.launch.node import HERE, Ending
from neox.launch.orders import Orders
from neox.launch.restarts import DONE, FAILED, REFUSED, STOPPED, Failure, with_restarts
from neox.launch.supervise import GRACE_SECONDS, die_with, print_line


def check_installed(program: str) -> None:
    """`ConfigError` where the launcher's program is not on this machine."""
    if shutil.which(program) is None:
        raise ConfigError(f"launcher: {program} is not installed on this machine")


def run_on_hosts(
    argv: Sequence[str],
    orders: Orders,
    config: str,
    max_restarts: int = 0,
    environ: Mapping[str, str] = os.environ,
    grace_seconds: float = GRACE_SECONDS,
    death_signal: int = signal.SIGTERM,
    hosts: Sequence[Host] = (),
) -> int:
    """Run the launcher's command, whose agents read `orders`, to its end; 0, 1, 2 or 75 as `supervise` means them.

    `config` is the packed configuration, for those who read it beside the orders. `death_signal` is what the command gets where this
    process dies. `hosts` are those of the hostfile, if there is one, in the order of their numbers. Raises ConfigError where orders
    cannot be given.
    """
    with heard() as received:

        def start() -> _Cluster:
            orders.open(forwarded(environ), config)
            return _Cluster(argv, orders, received, grace_seconds, death_signal, hosts)

        try:
            return with_restarts(start, max_restarts, print_line, received)
        finally:
            orders.close()


class _Cluster:
    """The launcher's process, and what its agents told. Its standard input stays open and empty."""

    def __init__(
        self,
        argv: Sequence[str],
        orders: Orders,
        received: deque[int],
        grace_seconds: float,
        death_signal: int,
        hosts: Sequence[Host],
    ) -> None:
        self.argv = argv
        self.hosts = hosts
        self.here: set[int] = set()  # numbers of the hosts whose agents have come up
        self.orders = orders
        self.received = received
        self.death_signal = death_signal
        self.grace_seconds = grace_seconds
        self.interrupted = self.killed = False
        self.asked_to_stop = False
        self.endings: list[Ending] = []

    def run(self) -> int:
        # in a session of its own: a Ctrl-C reaches the processes through their agents, once
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with(os.getpid(), self.death_signal),
        )
        reader = threading.Thread(target=self.pass_lines, daemon=True)
        reader.start()
        try:
            self.watch()
            reader.join(timeout=self.grace_seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.close_input()
        code = self.exit_code()
        if code == FAILED and (absent := self.absent()):
            print_line(f"no agent came up on these hosts; what {self.argv[0]} printed says why:")
            print_line("\n".join(f"    {host.place}: {host.name}" for host in absent))
        return code

    def absent(self) -> list[Host]:
        """The hosts whose agents never came up, unless the run was to end before they could."""
        if self.asked_to_stop:
            return []
        return [host for number, host in enumerate(self.hosts) if host.place and number not in self.here]

    def watch(self) -> None:
        """Wait for the end, passing signals on; a failure ends the other agents, and those that outlive it lose their input."""
        failed_at = None
        while self.process.poll() is None:
            while self.received:
                self.pass_on(self.received.popleft())
            if failed_at is None and self.failed():
                failed_at = time.monotonic()
                self.orders.pass_on(signal.SIGTERM.name)
            if failed_at is not None and time.monotonic() > failed_at + self.grace_seconds:
                self.hang_up()
            if failed_at is not None and time.monotonic() > failed_at + 2 * self.grace_seconds:
                self.process.kill()
            time.sleep(POLL_SECONDS)

    def pass_on(self, number: int) -> None:
        if number in STOPPING and self.interrupted:
            print_line(f"{signal.Signals(number).name} again: killing every process")
            self.killed = True
            self.hang_up()
        self.interrupted = self.interrupted or number in STOPPING
        self.asked_to_stop = self.asked_to_stop or number != signal.SIGUSR1
        self.orders.pass_on(signal.Signals(number).name)

    def hang_up(self) -> None:
        """Let the agents know that this is the end: srun and mpirun close their inputs with ours, pdsh when it goes."""
        self.close_input()
        self.process.terminate()

    def close_input(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.close()

    def pass_lines(self) -> None:
        """Copy the output, but for the lines that tell how an agent ended."""
        for line in self.process.stdout:
            text = line.decode(errors="replace")
            if ending := Ending.heard(text):
                self.endings.append(ending)
                continue
            if number := re.search(f"{re.escape(HERE)}([0-9]+)\\s*$", text):
                self.here.add(int(number[1]))
                continue
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more: the run goes on
                sys.stdout.write(text)
                sys.stdout.flush()

    def failed(self) -> bool:
        """Whether an agent told so, or a second signal made it so."""
        return self.killed or any(ending.code != STOPPED for ending in self.endings)

    @property
    def failure(self) -> Failure:
        """Who was never there, else the first that an agent told of, else what became of the launcher: an agent that is lost tells
        nothing."""
        if absent := self.absent():
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            return Failure(f"no agent came up on {absent[0].name} ({absent[0].place}){more}")
        told = [ending.failure for ending in self.endings if ending.failure is not None]
        return told[0] if told else Failure(f"{self.argv[0]} ended with exit code {self.process.returncode}")

    def exit_code(self) -> int:
        codes = {ending.code for ending in self.endings}
        if REFUSED in codes:
            return REFUSED
        if self.process.returncode != DONE or self.failed():
            return FAILED
        return STOPPED if STOPPED in codes else DONE
