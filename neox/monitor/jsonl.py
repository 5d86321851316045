"""The record of a run: one JSON object per logged iteration in `metrics.jsonl`. Knows nothing about what is measured.

The file is only ever appended to. A crash may leave a torn last line, and an iteration done again after a restart
appears again: `read_metrics` understands both.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

FILE_NAME = "metrics.jsonl"


class JsonLines:
    """Appends each report to `<log_dir>/metrics.jsonl`, on disk for every reader as soon as `report` returns."""

    def __init__(self, log_dir: str | Path) -> None:
        path = Path(log_dir) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        self._failed = False
        self._torn = not _ends_in_newline(path)

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Append one object. A disk that is full costs this line, not the run: said once, and tried again next time."""
        # JSON knows neither NaN nor infinity
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = json.dumps({"iteration": iteration, **values}, allow_nan=False).encode() + b"\n"
        try:
            written = self._file.write(b"\n" + line if self._torn else line)
            self._torn = written != len(line) + self._torn
        except OSError as error:
            if not self._failed:
                print(f"cannot write {self._path}: {error.strerror}; training goes on", flush=True)
            self._failed = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_in_newline(path: Path) -> bool:
    """Whether what is appended to the file starts a new line; true for an empty file."""
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def read_metrics(path: str | Path) -> dict[int, dict[str, float | None]]:
    """Metrics by iteration, in rising order, of a `metrics.jsonl` or of the folder that holds one.

    Of an iteration that was logged twice the last values count. A line that is not a whole object with an iteration
    (torn by a crash) is passed over. Raises FileNotFoundError.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    records: dict[int, dict[str, float | None]] = {}
    with open(path, "rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                iteration = record.pop("iteration")
            except (ValueError, AttributeError, TypeError, KeyError):
                continue
            records.setdefault(iteration, {}).update(record)
    return dict(sorted(records.items()))
