"""How fast training's samples are made ready and read: ours, megatron-core's own dataset, and copying the same tokens from the map."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy
from rich.table import Table

from neox.data.reading import Reading
from neox.data.samples import GPTDataset, IndexedDataset, Samples, SamplesConfig, Split, TokenizerFacts
from neox.data.store import check_store

SEQ_LENGTH = 2048
EPOCHS = 20  # so that there are enough samples to build an index of
READ = 2_000  # samples of a turn


def measure_samples(prefix: str, vocab_size: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Medians over the rounds: seconds until the first sample, without and with an index on disk, and samples read a second."""
    tokens = check_store(prefix).tokens
    length = min(SEQ_LENGTH, tokens // 2)
    size = EPOCHS * tokens // length
    store = IndexedDataset(prefix)
    turns: dict[str, list[float]] = {name: [] for name in ("built", "cached", "megatron-core")}
    reading: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        cache = folder / f"index-{number}"
        config = SamplesConfig(
            random_seed=number,
            sequence_length=length,
            blend=([prefix], None),
            split="1",
            tokenizer=TokenizerFacts(vocab_size, None),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            index_folder=cache,
            reading=Reading(length, None),
        )
        arguments = store, prefix, numpy.arange(len(store), dtype=numpy.int32), size, Split.train, config
        cache.mkdir()
        ours = partial(Samples, None)
        for name, make in (("built", ours), ("cached", ours), ("megatron-core", GPTDataset)):
            begin = time.perf_counter()
            dataset = make(*arguments)
            turns[name].append(time.perf_counter() - begin)
            if name == "built":
                continue
            reader = "ours" if name == "cached" else name
            for order, indices in _orders(len(dataset), number).items():
                reading.setdefault(f"{reader}, {order}", []).append(_read(dataset.__getitem__, indices))
        for order, indices in _orders(tokens // length - 1, number).items():
            reading.setdefault(f"memory map, {order}", []).append(_read(_Floor(prefix, store, length), indices))
    return {
        "seq_length": length,
        "samples": size,
        "index": {
            name: {"seconds": (middle := median(of)), "samples_per_sec": size / middle} for name, of in turns.items()
        },
        "reading": {
            name: {
                "samples_per_sec": median(wall for wall, _ in of),
                "samples_per_cpu_sec": median(cpu for _, cpu in of),
            }
            for name, of in reading.items()
        },
    }


class _Floor:
    """What no dataset can do without: a copy of a sample's tokens, as integers that torch takes."""

    def __init__(self, prefix: str, store: IndexedDataset, length: int):
        self.tokens = numpy.memmap(f"{prefix}.bin", dtype=store.index.dtype, mode="r")
        self.length = length

    def __call__(self, index: int) -> numpy.ndarray:
        begin = index * self.length
        return self.tokens[begin : begin + self.length + 1].astype(numpy.int64)


def _orders(count: int, seed: int) -> dict[str, list[int]]:
    """Which samples to read: neighbours, and any."""
    draw = numpy.random.default_rng(seed)
    return {
        "sequential": (numpy.arange(READ) % count).tolist(),
        "random": draw.integers(0, count, READ).tolist(),
    }


def _read(read: Callable[[int], Any], indices: Sequence[int]) -> tuple[float, float]:
    """Samples a second, and a CPU-second of this process."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    for index in indices:
        read(index)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    return len(indices) / seconds, len(indices) / max(cpu_seconds, 1e-9)


def sample_tables(result: dict[str, Any]) -> list[Table]:
    """The figures as tables."""
    title = f"{result['samples']:,} samples of {result['seq_length']:,} tokens"
    index = Table("index", "seconds", "samples/s", title=title, title_justify="left")
    for name, row in result["index"].items():
        index.add_row(name, f"{row['seconds']:.4f}", f"{row['samples_per_sec']:,.0f}")
    reading = Table("reading", "samples/s", "samples per CPU-second")
    for name, row in result["reading"].items():
        reading.add_row(name, f"{row['samples_per_sec']:,.0f}", f"{row['samples_per_cpu_sec']:,.0f}")
    return [index, reading]
