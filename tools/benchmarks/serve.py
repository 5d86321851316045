"""A contestant's side of the benchmark: a process that does so many steps each time it is told, and says what they cost.

It reads one number of steps a line from its standard input, and answers each with one line of JSON on a pipe of its own,
since libraries print to the standard output. Knows nothing about what a step does.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch

Turn = dict[str, float]


def contestant_parser() -> argparse.ArgumentParser:
    """The arguments that every contestant is started with, beside `--config`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--answers", type=int, required=True, help="file descriptor to answer on")
    parser.add_argument("--vocab-size", type=int, required=True, help="without padding")
    return parser


def resident_bytes(field: str) -> int:
    """VmRSS or VmHWM (its peak) of this process; getrusage would count the parent before exec too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def timed(step: Callable[[], Any]) -> Callable[[int], Turn]:
    """A turn of `step`: seconds and CPU-seconds of each, and the last loss that it returned."""

    def turn(steps: int) -> Turn:
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss = step()
        loss = float(loss)  # waits for the device
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        return {"seconds": seconds / steps, "cpu_seconds": cpu_seconds / steps, "loss": loss}

    return turn


def serve(answers: int, build: Callable[[], Callable[[int], Turn]], device: torch.device) -> None:
    """Build the contestant, then take turns until the referee hangs up; the last line tells the peak memory."""
    stream = os.fdopen(answers, "w")
    imported = resident_bytes("VmRSS")
    turn = build()
    gc.collect()
    _say(stream, {"threads": torch.get_num_threads()})
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        _say(stream, turn(int(line)))
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resident_bytes("VmHWM")
    _say(stream, {"peak_bytes": peak, "import_bytes": 0 if cuda else imported})


def _say(stream: TextIO, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()
