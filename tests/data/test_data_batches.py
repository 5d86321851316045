"""Batches: which samples a step reads does not depend on the layout, and a resumed run reads on."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neox.config.sections import BatchConfig
from neox.data.batches import Batch, ahead, batches
from neox.parallel.topology import Topology


class Numbers:
    """A dataset whose sample i holds the number i."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        assert 0 <= index < self.length
        number = torch.tensor([index])
        return {"tokens": number, "labels": number + 1, "loss_mask": torch.ones(1), "position_ids": number}


def replica(rank: int, replicas: int) -> Topology:
    return Topology(rank, rank, replicas, 0, 1, 0, 1, rank, replicas, torch.device("cpu"), "gloo")


def step(readers, accumulation: int) -> list[int]:
    """The samples that all replicas read in one step."""
    return [
        number
        for reader in readers
        for batch in islice(reader, accumulation)
        for number in batch.tokens.flatten().tolist()
    ]


layouts = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))  # replicas, micro-batch, accumulation


@given(layout=layouts, length=st.integers(1, 200), consumed_steps=st.integers(0, 5))
def test_each_step_reads_its_samples_and_a_resumed_run_reads_on(layout, length, consumed_steps):
    replicas, micro, accumulation = layout
    total = replicas * micro * accumulation
    config = BatchConfig(
        train_batch_size=total, train_micro_batch_size_per_gpu=micro, gradient_accumulation_steps=accumulation
    )
    dataset = Numbers(length)
    readers = [batches(dataset, 0, config, replica(rank, replicas)) for rank in range(replicas)]
    for number in range(consumed_steps):
        expected = [index % length for index in range(number * total, (number + 1) * total)]
        assert sorted(step(readers, accumulation)) == sorted(expected)
    for rank, reader in enumerate(readers):
        resumed = batches(dataset, consumed_steps * total, config, replica(rank, replicas))
        for going_on, starting in zip(islice(reader, 2 * accumulation), islice(resumed, 2 * accumulation), strict=True):
            assert torch.equal(going_on.tokens, starting.tokens)


def test_micro_batches_are_contiguous_runs_interleaved_over_the_replicas():
    config = BatchConfig(train_batch_size=12, train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=3)
    read = [
        [batch.tokens.flatten().tolist() for batch in islice(batches(Numbers(99), 24, config, replica(rank, 2)), 3)]
        for rank in range(2)
    ]
    assert read == [[[24, 25], [28, 29], [32, 33]], [[26, 27], [30, 31], [34, 35]]]


def test_shapes_and_types():
    config = BatchConfig(train_batch_size=3, train_micro_batch_size_per_gpu=3, gradient_accumulation_steps=1)
    batch = next(batches(Numbers(9), 0, config, replica(0, 1)))
    assert batch.tokens.shape == batch.labels.shape == batch.loss_mask.shape == (3, 1)
    assert (batch.tokens.dtype, batch.labels.dtype, batch.loss_mask.dtype) == (torch.int64, torch.int64, torch.float32)
    assert batch.labels.flatten().tolist() == [1, 2, 3]


def test_a_gpu_gets_the_same_batches_each_read_one_ahead(monkeypatch):
    monkeypatch.setattr(Batch, "pinned", lambda batch: batch)  # which takes a GPU
    config = BatchConfig(train_batch_size=4, train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=1)
    read = []

    class Noted(Numbers):
        def __getitem__(self, index: int) -> dict:
            read.append(index)
            if index == 20:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    def reader(dataset, device):
        return ahead(batches(dataset, 0, config, replica(0, 2)), torch.device(device))

    on_gpu, on_cpu = reader(Noted(99), "cuda"), reader(Numbers(99), "cpu")
    for step_number in range(5):
        assert next(on_gpu).tokens.tolist() == next(on_cpu).tokens.tolist()
        assert len(read) <= 2 * (step_number + 2)
    with pytest.raises(OSError, match="the disk is gone"):
        next(on_gpu)
