"""Stop a job that reports as it goes, in the middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Stopped(Exception):
    """The run was stopped."""


def stop_after(batches: int) -> Callable[[Any], None]:
    """A report that stops the run after so many batches."""
    left = [batches]

    def report(_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    return report
