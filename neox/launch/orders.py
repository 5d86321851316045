"""How the launcher speaks to its agents on other hosts: a file that all of them see, which only its owner can read.

Its first line is the environment to add, as JSON, so that no secret is an argument; each later line is the name of a signal to pass on.
Beside it lies the configuration, which may be too long for an argument.
pdsh passes no standard input on, and srun, mpirun and ssh each do signals in their own way: a file is the same under all of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from neox.config.errors import ConfigError
from neox.config.handover import FILE_NAME

POLL_SECONDS = 0.3


def orders_folder(folder: Path) -> Path:
    """Where in the folder of the run this launcher's orders are. Other machines may share it, and containers count their processes
    from 1."""
    return folder / f".neox-{socket.gethostname()}-{os.getpid()}"


def sweep(folder: Path) -> None:
    """Remove orders whose launcher was killed, on this machine, when there was no agent yet to do it: secrets are in them."""
    for left in folder.glob(".neox-*"):
        launcher = re.fullmatch(rf"\.neox-{re.escape(socket.gethostname())}-(\d{{1,9}})", left.name)
        if launcher is not None and not _lives(int(launcher[1])):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


class Orders:
    """The file, in a folder of its own below the folder of the run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def open(self, environ: Mapping[str, str], config: str) -> None:
        """Make the files anew, with the environment in it and no signal, and the packed configuration.

        Raises ConfigError where they cannot be written.
        """
        folder = self.path.parent
        sweep(folder.parent)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / FILE_NAME).write_text(config)
            self.path.unlink(missing_ok=True)
            self._append(json.dumps(dict(environ)))
        except OSError as error:
            raise ConfigError(
                f"{folder.parent} cannot be written to ({error.strerror}): what the launcher tells the processes of other machines "
                "is a file in the current folder; start from one that you may write to and that all machines see"
            ) from error

    def pass_on(self, signal_name: str) -> None:
        """Add a signal."""
        # an agent whose input has ended takes the launcher for gone, removes the folder and ends: nobody is left to tell
        with suppress(FileNotFoundError):
            self._append(signal_name)

    def close(self) -> None:
        """Remove the folder, which is none of anybody's any more."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _append(self, line: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{line}\n")

    def environment(self) -> dict[str, str]:
        """The first line."""
        with open(self.path) as file:
            return json.loads(file.readline())

    def passed(self) -> list[str]:
        """The later lines that are whole."""
        # opened anew each time: what a network file system keeps of an open file may be old
        try:
            lines = self.path.read_text().splitlines(keepends=True)
        except OSError:  # removed, or a network file system that fails for a moment
            return []
        return [line.strip() for line in lines[1:] if line.endswith("\n")]

    def to_stop(self) -> bool:
        """Whether the run is to end: any signal but SIGUSR1 says so."""
        return any(name != "SIGUSR1" for name in self.passed())

    def signals(self) -> Iterator[str]:
        """The later lines as they come, without end."""
        done = 0
        while True:
            names = self.passed()
            yield from names[done:]
            done = max(done, len(names))
            time.sleep(POLL_SECONDS)
