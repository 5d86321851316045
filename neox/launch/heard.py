"""Signals to a launcher or an agent: noted as they come, for whoever has started processes to pass on."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)  # the second of these kills
ENDING = frozenset((*STOPPING, signal.SIGHUP))
FORWARDED = (*ENDING, signal.SIGUSR1)
POLL_SECONDS = 0.05  # between two looks for them, and at processes


@contextmanager
def heard() -> Iterator[deque[int]]:
    """The signals that have come while the body runs, in place of what they would do; who deals with one takes it out.

    What nohup or a shell has this process ignore stays ignored.
    """
    received: deque[int] = deque()
    numbers = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _frame: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
