"""Start a run again after a failure, a limited number of times. Knows nothing about what it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

DONE, FAILED, STOPPED = 0, 1, 75  # STOPPED: saved after a signal; start again to go on
LONGEST_PAUSE_SECONDS = 60.0


class Attempt(Protocol):
    """One start of a run. Afterwards `asked_to_stop` tells whether a signal came, and `cause` why it failed."""

    asked_to_stop: bool
    cause: str

    def run(self) -> int:
        """The exit code: 0, 1 or 75."""
        ...


def with_restarts(
    attempt: Callable[[], Attempt],
    max_restarts: int,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run attempts until one does not fail, a signal came, or `max_restarts` are used up; the exit code of the last.

    Before the k-th restart there is a pause of 2^(k-1) seconds, at most a minute: what broke may need a moment.
    """
    causes: list[str] = []
    while True:
        current = attempt()
        code = current.run()
        if code != FAILED or current.asked_to_stop:
            return code
        causes.append(current.cause)
        restart = len(causes)
        if restart > max_restarts:
            break
        pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** (restart - 1))
        say(f"restart {restart} of {max_restarts} in {pause:g} s, from the newest good checkpoint")
        sleep(pause)
    if max_restarts:
        say(
            "\n".join(
                [
                    f"gave up after {max_restarts} restarts; what failed, in order:",
                    *(f"    {cause}" for cause in causes),
                ]
            )
        )
    return code
