"""Write a checkpoint anew, in other files: no run needs it, since every layout reads what every other wrote.

One file is in memory at a time. Knows nothing about runs or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from neox.checkpoint import layout
from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.publish import CONFIG, Counters, Progress, publish_state, read_progress
from neox.checkpoint.tensors import WEIGHT, Piece, StateReader, Weight, write_tensors

FILE_BYTES = 1 << 30  # about what a file holds, and the memory that this takes


def rewrite(checkpoint: Path, save: Path, *, tensor_size: int = 1, weights_only: bool = False) -> Path:
    """Write a verified checkpoint folder into the folder `save`, its weights cut for so many tensor-parallel processes; its new place.

    What ZeRO, pipelines and replicas had cut is put together. With `weights_only` moments and progress stay behind, and the result is
    the checkpoint of step 0 that an import is too. Random states, which belong to the processes of a run, stay behind as at any change
    of the layout. Raises CheckpointError where `save` holds checkpoints already, a weight cannot be cut so, or the disk is full.
    """
    if held := layout.steps(save):
        raise CheckpointError(f"{save} holds {layout.step_name(held[0])} already: give a new folder")
    reader = StateReader(checkpoint)
    moments = [] if weights_only else reader.moments
    progress, counters = (Progress(), Counters(0, {})) if weights_only else read_progress(checkpoint)
    for name, weight in reader.weights.items():
        if weight.partition_dim is not None and weight.shape[weight.partition_dim] % tensor_size:
            raise CheckpointError(
                f"{name}, {list(weight.shape)}, cannot be cut for {tensor_size} processes along its dimension {weight.partition_dim}"
            )
    folder = layout.start(save, progress.iteration, (1 + len(moments)) * 4 * _elements(reader))
    pieces: dict[str, list[Piece]] = {name: [] for name in reader.weights}
    entries = []
    try:
        for number, (rank, names) in enumerate(_files(reader, tensor_size, len(moments))):
            file, tensors = f"state_{number:05d}.safetensors", {}
            for name in names:
                parts = 1 if reader.weights[name].partition_dim is None else tensor_size
                for key in (WEIGHT, *moments):
                    if dtype := reader.dtype(name, key):
                        tensors[f"{key}/{name}"] = reader.shard(name, key, rank, parts).flatten().to(dtype)
                pieces[name].append(Piece(file, rank, parts, 0, tensors[f"{WEIGHT}/{name}"].numel()))
            entries.append(write_tensors(folder / file, tensors))
        return publish_state(
            save,
            progress,
            counters,
            entries=entries,
            weights={
                name: Weight(weight.shape, weight.partition_dim, tuple(pieces[name]))
                for name, weight in reader.weights.items()
            },
            moments=moments,
            config_text=(checkpoint / CONFIG).read_text(encoding="utf-8"),
            written_by={},
        )
    except BaseException:
        layout.discard(save, progress.iteration)
        raise


def _files(reader: StateReader, tensor_size: int, moments: int) -> Iterator[tuple[int, list[str]]]:
    """(tensor-parallel rank, names of weights) of each file; what every rank holds is with the first."""
    for rank in range(tensor_size):
        names, size_bytes = [], 0
        for name, weight in reader.weights.items():
            if weight.partition_dim is None and rank > 0:
                continue
            parts = 1 if weight.partition_dim is None else tensor_size
            names.append(name)
            size_bytes += (1 + moments) * 4 * torch.Size(weight.shape).numel() // parts
            if size_bytes >= FILE_BYTES:
                yield rank, names
                names, size_bytes = [], 0
        if names:
            yield rank, names


def _elements(reader: StateReader) -> int:
    return sum(torch.Size(weight.shape).numel() for weight in reader.weights.values())
