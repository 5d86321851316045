"""How long the parts of a training step take, for the metrics `timers/*` and for the traces of a profiler."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function

PREFIX = "timers/"


class Timers:
    """A stopwatch for each part of a step: `data`, `forward`, `backward`, `optimizer`, and in a pipeline `transfer`.

    On CUDA the device marks the time, so that the host waits for nothing until `take`.
    """

    def __init__(self, device: torch.device, enabled: bool) -> None:
        self._enabled = enabled
        self._mark, self._seconds = (_event, _seconds_of_events) if device.type == "cuda" else (_now, _seconds_of_clock)
        self._counting = False
        self._steps = 0
        self._spans: list[tuple[str, object, object]] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count what happens inside as one step; parts outside of a step, as of an evaluation, do not count."""
        self._counting = self._enabled
        try:
            yield
        finally:
            self._counting = False
            self._steps += 1

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as that part."""
        if not self._counting:
            yield
            return
        with record_function(PREFIX + name):
            begin = self._mark()
            yield
            self._spans.append((name, begin, self._mark()))

    def take(self) -> dict[str, float]:
        """`timers/<part>`: seconds in the mean of the steps since the last call; waits for the device."""
        totals: dict[str, float] = defaultdict(float)
        for name, begin, end in self._spans:
            totals[PREFIX + name] += self._seconds(begin, end) / self._steps
        self._spans, self._steps = [], 0
        return dict(totals)


def _now() -> float:
    return time.perf_counter()


def _seconds_of_clock(begin: float, end: float) -> float:
    return end - begin


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_of_events(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
