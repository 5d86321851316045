"""The folder in which a long job makes its output: for one process at a time, kept when the job breaks off, gone when it is done.

    <prefix>.partial/lock          held by the process that works here
    <prefix>.partial/job.json      what the job is, so that another one does not go on with its files
    <prefix>.partial/state.json    how far it is, replaced whole
    <prefix>.partial/...           files on their way to their names

Knows nothing about what is made.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from neox.config.errors import ConfigError
from neox.data.files import flush_folder, open_alone, write_durably


class Workplace:
    """Hold the folder of an output while in a `with` block.

    `job` says what is to be made, in JSON values; `state` is what the last `save` of the same job kept, None at a beginning.
    Raises ConfigError where another process works there, where another job broke off there (unless `overwrite`), and where the
    folder cannot be made.
    """

    def __init__(self, prefix: str | Path, job: dict[str, Any], overwrite: bool = False):
        self.folder = Path(f"{prefix}.partial")
        self.prefix = Path(prefix)
        self.state: dict[str, Any] | None = None
        self._job = job
        self._overwrite = overwrite

    def __enter__(self) -> Workplace:
        try:
            self._lock = open_alone(self.folder / "lock")
        except BlockingIOError as error:
            raise ConfigError(f"{self.folder}: another run is writing this output") from error
        except OSError as error:
            raise ConfigError(f"{self.folder}: it cannot be written ({error.strerror})") from error
        try:
            self._take_over()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        if self.folder.exists() and self.state is None:
            shutil.rmtree(self.folder)  # nothing worth keeping; the lock goes after the files
        self._lock.close()

    def save(self, state: dict[str, Any]) -> None:
        """Keep how far the job is; what the state speaks of must be on the disk by now."""
        write_durably(self.folder / "state.json", json.dumps(state).encode())
        self.state = state

    def publish(self, names: list[str]) -> None:
        """Move finished files and folders to where they belong, beside the prefix, and remove the folder. May be done again after a crash.

        What bore the names goes first, and the last name comes last: who finds it finds all.
        """
        there = [name for name in names if (self.folder / name).exists()]
        for name in reversed(there):
            (self.prefix.parent / name).unlink(missing_ok=True)
        for name in there:
            os.replace(self.folder / name, self.prefix.parent / name)
        flush_folder(self.prefix.parent)
        shutil.rmtree(self.folder)

    def _take_over(self) -> None:
        """Go on with what an earlier run left, or begin."""
        job, state = self.folder / "job.json", self.folder / "state.json"
        if job.exists() and state.exists() and not self._overwrite:
            before = json.loads(job.read_bytes())
            differing = [key for key in before.keys() | self._job.keys() if before.get(key) != self._job.get(key)]
            if differing:
                raise ConfigError(
                    f"{self.folder}: another job broke off here, with other {', '.join(sorted(differing))}: start that one again "
                    "to finish it, or give --overwrite to start over"
                )
            self.state = json.loads(state.read_bytes())
            return
        for old in self.folder.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
            elif old.name != "lock":
                old.unlink()
        write_durably(job, json.dumps(self._job).encode())
