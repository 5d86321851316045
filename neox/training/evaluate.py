"""Loss on held-out data."""

from __future__ import annotations

import torch

from neox.config.sections import BatchConfig
from neox.data.batches import ahead, batches
from neox.parallel.topology import Topology
from neox.training.engine import Engine


def validation_means(
    engine: Engine, dataset, batch: BatchConfig, iterations: int, topology: Topology
) -> dict[str, float]:
    """`lm_loss` and what else the objective measures, in the mean over the first `iterations` global batches: the same samples each
    time, so that points of a curve compare. Every rank calls this.
    """
    samples = ahead(batches(dataset, 0, batch, topology), topology.device)
    steps = [engine.eval_step(samples) for _ in range(iterations)]
    return {name: torch.stack([step[name] for step in steps]).mean().item() for name in steps[0]}
