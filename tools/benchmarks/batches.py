"""Random tokens as the engine takes them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from neox.config.sections import Config
from neox.data.batches import Batch
from tools.benchmarks.plain import random_batches


def engine_batches(config: Config, vocab_size: int) -> Iterator[Batch]:
    """Endless micro-batches of the plain loop's tokens, all of which are learned."""
    size = config.batch.train_micro_batch_size_per_gpu
    for tokens, labels in random_batches(vocab_size, size, config.model.seq_length):
        yield Batch(tokens, labels, torch.ones(labels.shape))
