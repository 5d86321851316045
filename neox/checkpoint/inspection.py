"""What a checkpoint holds, in words for people. One weight is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from neox.checkpoint.layout import read_manifest
from neox.checkpoint.publish import read_progress
from neox.checkpoint.tensors import WEIGHT, StateReader
from neox.data.fingerprint import Fact


def summary(checkpoint: Path) -> Iterator[tuple[str, str]]:
    """What a verified checkpoint is about, line by line: (subject, words)."""
    manifest, reader = read_manifest(checkpoint), StateReader(checkpoint)
    progress, counters = read_progress(checkpoint)
    files = manifest["files"]
    yield "files", f"{len(files):,}, {sum(size for size, _ in files.values()):,} bytes, each as it was saved"
    numbers = sum(math.prod(weight.shape) for weight in reader.weights.values())
    moments = ", ".join(reader.moments) or "without moments: an optimizer begins anew"
    yield "weights", f"{len(reader.weights):,}, {numbers:,} numbers, vocabulary padded; {moments}"
    yield (
        "progress",
        f"iteration {progress.iteration:,}, {progress.consumed_samples:,} samples, {progress.consumed_tokens:,} tokens; "
        f"{counters.optimizer_steps:,} updates",
    )
    layout = " x ".join(f"{size} {kind}" for kind, size in manifest["layout"].items())
    yield "written by", f"{layout}; any layout reads it" if layout else "an import, or tools/reshard.py"
    for fact in progress.data or ():
        yield "data", str(Fact(**fact))


def weights(checkpoint: Path) -> Iterator[tuple[str, str, str, float, float, float]]:
    """Of each weight: name, shape, the dimension that tensor parallelism cuts, mean, standard deviation, largest absolute value."""
    reader = StateReader(checkpoint)
    for name, weight in reader.weights.items():
        whole = reader.shard(name, WEIGHT, 0, 1)
        cut = "" if weight.partition_dim is None else str(weight.partition_dim)
        yield (
            name,
            _shape(weight.shape),
            cut,
            float(whole.mean()),
            float(whole.std(correction=0)),
            float(whole.abs().max()),
        )


def differences(checkpoint: Path, other: Path) -> tuple[list[tuple[str, str]], int]:
    """(name, words) of the weights that two checkpoints do not share, the most different first, and how many are equal to the bit."""
    here, there = StateReader(checkpoint), StateReader(other)
    found, equal = [], 0
    for name in {**here.weights, **there.weights}:
        if name not in there.weights or name not in here.weights:
            found.append((math.inf, name, f"only in {checkpoint if name in here.weights else other}"))
            continue
        shapes = here.weights[name].shape, there.weights[name].shape
        if shapes[0] != shapes[1]:
            found.append((math.inf, name, f"{_shape(shapes[0])} in {checkpoint}, {_shape(shapes[1])} in {other}"))
            continue
        ours, theirs = (reader.shard(name, WEIGHT, 0, 1) for reader in (here, there))
        if ours.equal(theirs):
            equal += 1
            continue
        apart = ours - theirs
        share = float(apart.norm() / theirs.norm())
        found.append(
            (share, name, f"by {share:.2g} of its norm, no number by more than {float(apart.abs().max()):.2g}")
        )
    return [(name, words) for _, name, words in sorted(found, reverse=True)], equal


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
