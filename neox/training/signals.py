"""Signals ask the run to save or to stop; the ranks agree on it between two steps."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import torch
from torch import distributed

from neox.parallel.topology import Topology

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A cluster may send a signal to every process of a job, and the launcher passes it on too: that is one signal.
SAME_SIGNAL_SECONDS = 5.0


@dataclass(frozen=True)
class Asked:
    """What the signals since the last time asked for, the same on every rank."""

    stop: bool  # SIGTERM, SIGINT, SIGHUP: save, and end
    save: bool  # SIGUSR1: save, and go on


class Signals:
    """Signals to any rank, answered by all ranks alike."""

    def __init__(self, topology: Topology):
        self._topology = topology
        self._stop = False
        self._saves = (
            0  # asked for so far; the ranks go by the largest count, so one who hears later asks for nothing new
        )
        self._answered = 0
        self._last_save = float("-inf")
        # the answer is wanted on the host: asked over gloo, it costs the GPU no synchronisation
        self._group = distributed.new_group(backend="gloo") if topology.backend == "nccl" else None
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does with SIGHUP
                signal.signal(number, self.ask_to_stop)
        signal.signal(signal.SIGUSR1, self._ask_to_save)

    def ask_to_stop(self, *_: object) -> None:
        """Called by signals; code may call it too."""
        self._stop = True

    def _ask_to_save(self, *_: object) -> None:
        now = time.monotonic()
        if now - self._last_save > SAME_SIGNAL_SECONDS:
            self._saves += 1
        self._last_save = now

    def agreed(self) -> Asked:
        """What any rank has been asked for since the last call. Every rank calls this, between steps."""
        heard = [int(self._stop), self._saves]
        if self._topology.world_size > 1:
            counts = torch.tensor(heard, dtype=torch.int32)
            distributed.all_reduce(counts, op=distributed.ReduceOp.MAX, group=self._group)
            heard = counts.tolist()
        stop, saves = heard
        asked = Asked(bool(stop), saves > self._answered)
        self._answered = saves
        return asked
