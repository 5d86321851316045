"""Start the processes of a run on this machine, pass signals on, and tell the truth about how it ended.

No process outlives the launcher: each dies with it (Linux's parent-death signal), and a failure of one ends the others. Workers
run in sessions of their own, so that a terminal's Ctrl-C reaches them once, through the launcher. Knows nothing about
what the processes do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from neox.launch.argv import Worker
from neox.launch.heard import POLL_SECONDS, STOPPING, heard
from neox.launch.restarts import DONE, FAILED, REFUSED, STOPPED, Failure, with_restarts

GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL once a process has failed
KILLED_SECONDS = 60.0  # for a process to go after SIGKILL: to free much memory takes a while
LEFTOVER_SECONDS = 5.0  # for what the workers themselves started
LAST_LINES = 15
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass
class _Running:
    """A started process and the last lines that it wrote."""

    worker: Worker
    process: subprocess.Popen[bytes]
    lines: deque[bytes] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    pumps: list[threading.Thread] = field(default_factory=list)


def supervise(
    workers: Sequence[Worker],
    environ: Mapping[str, str] = os.environ,
    grace_seconds: float = GRACE_SECONDS,
    max_restarts: int = 0,
) -> int:
    """Run the workers to their end and return the launcher's exit code.

    0 where all ended well; 75 where they stopped after saving; 2 where one refused to begin, 1 where one failed: then the others are
    ended, with SIGKILL after `grace_seconds`, and after a failure all start again up to `max_restarts` times. Rank 0 has this
    process's stdin, stdout and stderr; the lines of the others pass with their rank before them.
    """
    with heard() as received:

        def start() -> Supervisor:
            return Supervisor(workers, environ, received, grace_seconds)

        return with_restarts(start, max_restarts, print_line, received)


def print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Supervisor:
    """The processes of one start of a run, or of one host's share of it.

    `received` has the signals to this process, which it passes on. `alone` means that nobody else watches this one: rank 0 has the
    terminal, and a second SIGINT or SIGTERM kills.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        environ: Mapping[str, str],
        received: deque[int],
        grace_seconds: float = GRACE_SECONDS,
        alone: bool = True,
    ) -> None:
        self.workers = workers
        self.environ = environ
        self.received = received
        self.grace_seconds = grace_seconds
        self.alone = alone
        self.running: list[_Running] = []
        self.asked_to_stop = False  # by any signal but SIGUSR1, after which a run goes on
        self.interrupted = False  # by one of STOPPING: the next of these kills
        self.failure: Failure | None = None
        self.failed = self.refused = False
        self.kill_at: float | None = None

    def run(self) -> int:
        _adopt_orphans()
        try:
            for worker in self.workers:
                self.running.append(self.start(worker))
            for running in self.running:
                self.pump(running)
            self.watch()
        finally:
            self.end_all()
        return self.exit_code()

    def start(self, worker: Worker) -> _Running:
        terminal = self.alone and worker.rank == 0
        process = subprocess.Popen(
            worker.argv,
            env={**self.environ, **worker.environment},
            stdin=None if terminal else subprocess.DEVNULL,
            stdout=None if terminal else subprocess.PIPE,
            stderr=None if terminal else subprocess.PIPE,
            start_new_session=True,
            # until a worker takes SIGUSR1 itself, that shall not end it: there is nothing to save yet
            preexec_fn=die_with(os.getpid(), signal.SIGKILL, ignoring=signal.SIGUSR1),
        )
        return _Running(worker, process)

    def pump(self, running: _Running) -> None:
        """Threads start once every process has: forking a process with threads is not safe."""
        for source, target in ((running.process.stdout, sys.stdout), (running.process.stderr, sys.stderr)):
            if source is not None:
                prefix = f"[rank {running.worker.rank}] ".encode() if running.worker.rank else b""
                thread = threading.Thread(target=_pass_lines, args=(source, target, prefix, running.lines), daemon=True)
                thread.start()
                running.pumps.append(thread)

    def watch(self) -> None:
        """Wait for the end of every process, passing signals on; not for one that even SIGKILL does not end."""
        waiting = list(self.running)
        while waiting:
            self.pass_signals_on()
            ended = [running for running in waiting if running.process.poll() is not None]
            waiting = [running for running in waiting if running not in ended]
            # Of those found at once, one that a signal ended came first: its peers fail for the want of it.
            for running in sorted(ended, key=lambda running: running.process.returncode >= 0):
                self.look_at(running)
            if self.kill_at is not None and time.monotonic() > self.kill_at:
                if time.monotonic() > self.kill_at + KILLED_SECONDS:
                    return
                for running in waiting:
                    _signal_group(running.process, signal.SIGKILL)
            if waiting:
                time.sleep(POLL_SECONDS)

    def pass_signals_on(self) -> None:
        while self.received:
            number = self.received.popleft()
            if number in STOPPING and self.interrupted:
                if (
                    not self.alone
                ):  # a cluster signals each process of a job, and the launcher passes the same signal on
                    continue
                print_line(f"{signal.Signals(number).name} again: killing every process")
                self.failed, self.kill_at = True, time.monotonic()
                return
            self.asked_to_stop = self.asked_to_stop or number != signal.SIGUSR1
            self.interrupted = self.interrupted or number in STOPPING
            for running in self.running:
                running.process.send_signal(number)

    def look_at(self, running: _Running) -> None:
        """Judge how a process ended; the first failure ends the others."""
        code = running.process.returncode
        if code in (DONE, STOPPED) or self.failed:
            return
        self.failed, self.refused = True, code == REFUSED
        if self.asked_to_stop and code < 0:
            print_line(f"rank {running.worker.rank} was ended by {_signal_name(-code)} before it had saved")
        elif not self.refused:  # one that refuses says why itself
            lines = _last_lines(running)
            self.failure = Failure(_cause(running, code), socket.gethostname(), tuple(lines))
            others = ": ending the other processes" if len(self.running) > 1 else ""
            print_line(f"{self.failure.cause}{others}")
            if lines:
                print_line("\n    ".join([f"last lines of rank {running.worker.rank}:", *lines]))
        self.kill_at = time.monotonic() + self.grace_seconds
        for other in self.running:
            if other.process.poll() is None:
                other.process.terminate()

    def end_all(self) -> None:
        """Whatever is still there goes: on the normal way nothing is."""
        for running in self.running:
            if running.process.poll() is None:
                _signal_group(running.process, signal.SIGKILL)
        patience = time.monotonic() + LEFTOVER_SECONDS
        for running in self.running:
            try:
                running.process.wait(max(0.0, patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                print_line(
                    f"rank {running.worker.rank} (process {running.process.pid}) was killed and is still there: the kernel holds it, "
                    "for a disk or a device that does not answer"
                )
                continue
            while _group_lives(running.process.pid) and time.monotonic() < patience:
                time.sleep(POLL_SECONDS)
            _signal_group(running.process, signal.SIGKILL)
            _group_lives(running.process.pid)  # collects what was killed
            for thread in running.pumps:
                thread.join(timeout=1)

    def exit_code(self) -> int:
        codes = {running.process.returncode for running in self.running}
        if self.failed or codes - {DONE, STOPPED}:
            return REFUSED if self.refused else FAILED
        return STOPPED if STOPPED in codes else DONE


def _cause(running: _Running, code: int) -> str:
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"failed with exit code {code}"
    hint = " (the kernel does this where memory runs out)" if code == -signal.SIGKILL else ""
    return f"rank {running.worker.rank} {how}{hint}"


def _last_lines(running: _Running) -> list[str]:
    for thread in running.pumps:
        thread.join(timeout=1)
    return [line.decode(errors="replace").rstrip() for line in running.lines]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _pass_lines(source: IO[bytes], target: IO[str], prefix: bytes, last: deque[bytes]) -> None:
    """Copy lines with a prefix, whole lines at a time, and remember the last ones."""
    with source:
        for line in source:
            last.append(line)
            whole = prefix + line + (b"" if line.endswith(b"\n") else b"\n")
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more: the run goes on
                target.write(whole.decode(errors="replace"))
                target.flush()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a worker and what it started; its process group has its process id."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _group_lives(group: int) -> bool:
    """Whether processes of a group are left; collects those of them that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _libc() -> ctypes.CDLL | None:
    """The C library where it has Linux's prctl."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _adopt_orphans() -> None:
    """What a worker leaves behind becomes a child of the launcher, which can then collect it."""
    if libc := _libc():
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(launcher: int, number: int, ignoring: int | None = None) -> Callable[[], None]:
    """What a new process does before it becomes another program: ask to be signalled with `number` when the launcher dies."""
    libc = _libc()  # loaded here: the child may only make the call

    def ask() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if ignoring is not None:
            signal.signal(ignoring, signal.SIG_IGN)
        if os.getppid() != launcher:  # it died before the call
            os._exit(FAILED)

    return ask
