"""Start a run again after a failure, a limited number of times. Knows nothing about what it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from neox.launch.heard import ENDING, POLL_SECONDS

DONE, FAILED, STOPPED = 0, 1, 75  # STOPPED: saved after a signal; start again to go on
REFUSED = 2  # the input or the machines are not right for the run: to start again would not help
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class Failure:
    """What broke first in one start of a run."""

    cause: str  # the rank and its signal or exit code
    host: str = ""
    lines: tuple[str, ...] = ()  # the last ones that the rank wrote, where they are known

    def __str__(self) -> str:
        return f"{self.host}: {self.cause}" if self.host else self.cause


class Attempt(Protocol):
    """One start of a run. Afterwards `asked_to_stop` tells whether a signal came, and `failure` why it failed."""

    asked_to_stop: bool
    failure: Failure | None

    def run(self) -> int:
        """The exit code: 0, 1, 2 or 75."""
        ...


def with_restarts(
    attempt: Callable[[], Attempt],
    max_restarts: int,
    say: Callable[[str], None],
    received: Collection[int],
) -> int:
    """Run attempts until one does not fail, is refused, a signal came, or `max_restarts` are used up; the exit code of the last.

    Before the k-th restart there is a pause of 2^(k-1) seconds, at most a minute: what broke may need a moment. received: the
    signals that have come and that no attempt has taken.
    """
    failures: list[Failure] = []
    while True:
        current = attempt()
        code = current.run()
        if code != FAILED or current.asked_to_stop:
            return code
        failures.append(current.failure or Failure("for no known reason"))
        restart = len(failures)
        if restart > max_restarts:
            break
        pause = min(LONGEST_PAUSE_SECONDS, 2.0 ** (restart - 1))
        say(f"restart {restart} of {max_restarts} in {pause:g} s, from the newest good checkpoint")
        end = time.monotonic() + pause
        while time.monotonic() < end:
            if not ENDING.isdisjoint(received):
                say("stopped by a signal: not started again")
                return code
            time.sleep(POLL_SECONDS)
    if max_restarts:
        say("\n".join(_summary(failures, max_restarts)))
    return code


def _summary(failures: list[Failure], max_restarts: int) -> list[str]:
    """What failed in every start, and the last lines that were written in the last one."""
    lines = failures[-1].lines
    return [
        f"gave up after {max_restarts} restarts; what failed, in order:",
        *(f"    {failure}" for failure in failures),
        *(["the last lines before the end:"] if lines else []),
        *(f"    {line}" for line in lines),
    ]
