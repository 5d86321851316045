"""Loss on held-out data."""

from __future__ import annotations

import torch

from neox.config.sections import BatchConfig
from neox.data.batches import ahead, batches
from neox.parallel.topology import Topology
from neox.training.engine import Engine


def validation_loss(engine: Engine, dataset, batch: BatchConfig, iterations: int, topology: Topology) -> float:
    """Mean loss over the first `iterations` global batches: the same samples each time, so that points of a curve compare.

    Every rank calls this.
    """
    samples = ahead(batches(dataset, 0, batch, topology), topology.device)
    losses = [engine.eval_step(samples) for _ in range(iterations)]
    return torch.stack(losses).mean().item()
