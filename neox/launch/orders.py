"""How the launcher speaks to its agents on other hosts: a file that all of them see, which only its owner can read.

Its first line is the environment to add, as JSON, so that no secret is an argument; each later line is the name of a signal to pass on.
Beside it lies the configuration, which may be too long for an argument.
pdsh passes no standard input on, and srun, mpirun and ssh each do signals in their own way: a file is the same under all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from neox.config.handover import FILE_NAME

POLL_SECONDS = 0.3


class Orders:
    """The file, in a folder of its own below the folder of the run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def open(self, environ: Mapping[str, str], config: str) -> None:
        """Make the files anew, with the environment in it and no signal, and the packed configuration."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        (self.path.parent / FILE_NAME).write_text(config)
        self.path.unlink(missing_ok=True)
        self._append(json.dumps(dict(environ)))

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
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
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
