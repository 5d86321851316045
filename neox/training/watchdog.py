"""End a process that makes no progress, and show where it hangs."""

from __future__ import annotations

import faulthandler


class Watchdog:
    """Ends the process with exit code 1, and the stacks of its threads on stderr, where nothing is heard for some seconds.

    A collective whose peer is gone may wait for ever, inside a library and without Python: the timer is a thread of C. `seconds` None
    means that nothing is watched.
    """

    def __init__(self, seconds: float | None):
        self._seconds = seconds

    def heard(self) -> None:
        """Something began or ended: count anew."""
        if self._seconds is not None:
            faulthandler.dump_traceback_later(self._seconds, exit=True)

    def off(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()
