"""Standard output and error that a run outlives: `| tee` may be gone, or the terminal, and what is printed then is not worth a run.

A Ctrl-C ends `tee` too, and a terminal that closes sends SIGHUP: both are the moment in which a run is to save.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import IO, Any

GONE = {errno.EPIPE, errno.EIO}  # nobody reads any more: a pipe, a terminal


class Outlived:
    """A text stream whose errors are nobody's: what cannot be written is left out."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or not."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._leave_out(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        try:
            self._stream.flush()
        except OSError as error:
            self._leave_out(error)

    def _leave_out(self, error: OSError) -> None:
        if error.errno in GONE:  # the rest goes nowhere, that of libraries too; a disk that is full may have room again
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """Let this process go on where nobody reads its output any more."""
    sys.stdout, sys.stderr = Outlived(sys.stdout), Outlived(sys.stderr)
