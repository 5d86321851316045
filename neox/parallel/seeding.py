"""Random numbers that agree where ranks hold copies and differ where they hold shards.

The default generators of a tensor-parallel group are in step: dropout of tensors that all of its ranks hold gives the
same mask on each. Initial weights do not come from here (see neox/model/initializers.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch

from neox.parallel.topology import Topology

# larger than any number of replicas or tensor ranks, so that seeds of different ranks never meet
_STRIDE = 1 << 16


def seed_everything(seed: int, topology: Topology) -> None:
    """Seed Python, numpy and torch: equal within a tensor group, different for each data rank and stage."""
    mine = seed + _STRIDE * (1 + topology.data_rank + topology.data_size * topology.pipe_rank)
    random.seed(mine)
    numpy.random.seed(mine % 2**32)
    torch.manual_seed(mine)


@contextmanager
def tensor_parallel_rng(topology: Topology) -> Iterator[None]:
    """Run the body under random numbers of this tensor rank's own; for dropout on tensors split over the tensor group.

    The seed is drawn from the default CPU generator, so the stream stays in step over the group, differs from call to
    call, and comes again when activation checkpointing restores that generator. Nothing to do without tensor
    parallelism.
    """
    if topology.tensor_size == 1:
        yield
        return
    seed = int(torch.randint(2**62, (), dtype=torch.int64)) + topology.tensor_rank
    devices = [topology.device] if topology.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
