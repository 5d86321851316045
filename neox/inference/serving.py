"""The thread that owns the model: rows in, tokens out. Knows nothing about text or HTTP.

Its callers are on other threads; they hear of each token in the model's thread, by a function that they give.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from neox.inference.decoding import Batch, Row

# why nothing follows, as OpenAI's API says it: the model or a stop ended the text, or the limit did
Finish = Literal["stop", "length"]
Tell = Callable[
    [Row, int | None, Finish | None], None
]  # the row, its next token, and why it was the last; or one of the two


class Full(Exception):
    """As many rows are at work or waiting as there may be."""


class Decoder:
    """Continues rows as they are given, `most_rows` at a time; up to `most_waiting` more wait in order."""

    def __init__(self, batch: Batch, *, most_rows: int, most_waiting: int) -> None:
        self.most = most_rows + most_waiting
        self._batch = batch
        self._most_rows = most_rows
        self._change = threading.Condition()
        self._tell: dict[Row, Tell] = {}  # of all rows, running or waiting
        self._waiting: deque[Row] = deque()
        self._dropped: list[Row] = []
        self._ending = False
        self._thread: threading.Thread | None = None

    @property
    def rows(self) -> int:
        """How many are running or waiting."""
        return len(self._tell)

    def start(self, on_failure: Callable[[Exception], None]) -> None:
        """Begin to work. on_failure: called in the model's thread with what ended it; nobody hears of anything from then on."""
        self._thread = threading.Thread(target=self._run, args=(on_failure,), name="decoder", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row], tell: Tell) -> None:
        """Continue rows; `tell` is called for each token. Raises Full where not all of them find a place."""
        with self._change:
            if len(self._tell) + len(rows) > self.most:
                raise Full(f"{len(self._tell)} texts are being written or wait to be, of at most {self.most}")
            self._tell.update(dict.fromkeys(rows, tell))
            self._waiting.extend(rows)
            self._change.notify()

    def cancel(self, rows: Collection[Row]) -> None:
        """Nobody wants these rows any more; those that have ended are passed over."""
        with self._change:
            gone = [row for row in rows if self._tell.pop(row, None) is not None]
            self._waiting = deque(row for row in self._waiting if row not in gone)
            self._dropped += gone
            self._change.notify()

    def close(self) -> None:
        """End the thread after the step that it is in."""
        with self._change:
            self._ending = True
            self._change.notify()
        self._thread.join()

    def _run(self, on_failure: Callable[[Exception], None]) -> None:
        try:
            while self._has_work():
                self._batch.drop(self._taken_dropped())
                joining = self._taken_waiting(self._most_rows - len(self._batch.rows))
                self._batch.join(joining)
                self._report(joining)
                running = list(self._batch.rows)
                if running:
                    self._batch.step()
                    self._report(running)
        except Exception as error:
            on_failure(error)

    def _has_work(self) -> bool:
        """Wait for it; False once there shall be none."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._batch.rows or self._ending)
            return not self._ending

    def _taken_dropped(self) -> list[Row]:
        with self._change:
            dropped, self._dropped = self._dropped, []
            return dropped

    def _taken_waiting(self, most: int) -> list[Row]:
        with self._change:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _report(self, rows: Sequence[Row]) -> None:
        """Tell of the token that each of these rows has got."""
        for row in rows:
            finish: Finish | None = None if row.goes_on else "stop" if row.finished else "length"
            with self._change:
                tell = self._tell.pop(row, None) if finish else self._tell.get(row)
            if tell is not None:
                tell(row, None if row.finished else row.ids[-1], finish)
