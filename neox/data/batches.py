"""From a dataset to the micro-batches of one replica. The position in the data is one integer: samples consumed.

Knows nothing about models. Optimizer step s reads the samples [s * B, (s + 1) * B) whatever the layout; within it, replica d
takes for its micro-batch m the samples from (m * D + d) * micro on, where D is the number of replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import torch

from neox.config.sections import BatchConfig
from neox.parallel.topology import Topology


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one replica, on the CPU: each (rows, seq_length), a row a sample. Of a pair, two rows: the preferred
    answer, then the other one."""

    tokens: torch.Tensor  # int64
    labels: torch.Tensor  # int64, the token that follows each
    loss_mask: torch.Tensor  # float32, 0 where the label does not count
    documents: torch.Tensor | None = None  # int64, equal for the tokens of one document; with reset_attention_mask
    positions: torch.Tensor | None = None  # int64, counted from the document's beginning; with reset_position_ids

    def pinned(self) -> Batch:
        """The same in memory that a GPU reads by itself, while the host goes on."""
        return Batch(**{name: part.pin_memory() for name, part in vars(self).items() if part is not None})


def batches(dataset: Sequence[dict], consumed: int, batch: BatchConfig, topology: Topology) -> Iterator[Batch]:
    """The micro-batches of this replica from `consumed` samples on, without end: past its last sample the dataset begins
    again."""
    size = batch.train_micro_batch_size_per_gpu
    samples_per_round = size * topology.data_size
    assert batch.train_batch_size == samples_per_round * batch.gradient_accumulation_steps, "resolve() makes them agree"
    start = consumed + topology.data_rank * size
    while True:
        yield _collate([dataset[index % len(dataset)] for index in range(start, start + size)])
        start += samples_per_round


def ahead(endless: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches; for a GPU one is read ahead and pinned while the one before it is computed with."""
    if device.type != "cuda":
        yield from endless  # the processor is busy with the model
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(lambda: next(endless).pinned())
        while True:
            batch, coming = coming.result(), reader.submit(lambda: next(endless).pinned())
            yield batch


def _collate(samples: list[dict]) -> Batch:
    parts = [field.name for field in fields(Batch) if field.name in samples[0]]
    return Batch(**{part: torch.stack([sample[part] for sample in samples]).flatten(0, -2) for part in parts})
