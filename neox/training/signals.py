"""A signal asks the run to stop; the ranks agree on it between two steps."""

from __future__ import annotations

import signal

import torch
from torch import distributed

from neox.parallel.topology import Topology

# SIGTERM and SIGINT stop a run; clusters send SIGUSR1 some time before they take the machine away
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Raised by a signal to any rank; `agreed` answers the same on every rank."""

    def __init__(self, topology: Topology):
        self._topology = topology
        self._requested = False
        # the answer is wanted on the host: asked over gloo, it costs the GPU no synchronisation
        self._group = distributed.new_group(backend="gloo") if topology.backend == "nccl" else None
        for number in STOP_SIGNALS:
            signal.signal(number, self.ask)

    def ask(self, *_: object) -> None:
        """Ask for the stop; called by signals, and from other threads."""
        self._requested = True

    def agreed(self) -> bool:
        """Whether any rank has been asked to stop. Every rank calls this, between steps."""
        if self._topology.world_size == 1:
            return self._requested
        requested = torch.tensor([int(self._requested)], dtype=torch.int32)
        distributed.all_reduce(requested, op=distributed.ReduceOp.MAX, group=self._group)
        return bool(requested.item())
