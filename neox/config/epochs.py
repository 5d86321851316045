"""Steps of a run that is given in epochs: counted on the launch node from the indices of the token files.

Knows how an index begins; `neox.data.store` writes, reads and checks all of it. No numpy, no torch.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

from neox.config.errors import ConfigError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, document marks

READ_AT_ONCE = 1_000_000  # lengths


def epochs_in_steps(config: Any) -> int:
    """Optimizer steps in which the training data are read `train_epochs` times, whatever their weights; the last, partial
    batch is left out.

    Raises ConfigError that names the file where an index cannot be read or the data are too few for one step.
    """
    data, batch, length = config.data, config.batch, config.model.seq_length
    if data.pack_impl == "pack_until_overflow":
        raise ConfigError(
            "pack_until_overflow fills samples as their order has it, so they are not counted before: give train_iters"
        )
    paths = data.training_paths
    weights = data.train_data_weights or [1.0] * len(paths or [])
    if paths is None:
        shares = [(data.data_path, data.split)]
    else:
        shares = [(path, "1") for path, weight in zip(paths, weights) if weight > 0]
    if data.pack_impl == "unpacked":
        # as neox.data.packing has it; documents without anything to learn are not known here
        most = inf if data.allow_chopped else length + 1
        good = (2 <= tokens <= most for tokens in _every_length(shares))
        if data.are_pairs:
            others = [(path, "1") for path, weight in zip(data.neg_train_data_paths or [], weights) if weight > 0]
            good = (answer and 2 <= tokens <= most for answer, tokens in zip(good, _every_length(others)))
        samples = batch.train_epochs * sum(good)
    else:
        tokens = [sum(map(sum, training_lengths(prefix, split))) for prefix, split in shares]
        samples = sum(max(0, batch.train_epochs * count - 1) // length for count in tokens)
    if samples < batch.train_batch_size:
        raise ConfigError(
            f"{batch.train_epochs} epochs of the data are {samples:,} samples, fewer than train_batch_size "
            f"{batch.train_batch_size:,}"
        )
    return samples // batch.train_batch_size


def _every_length(shares: list[tuple[str, str]]) -> Iterator[int]:
    return chain.from_iterable(chain.from_iterable(training_lengths(prefix, split) for prefix, split in shares))


def training_lengths(prefix: str, split: str) -> Iterator[array]:
    """Tokens of each document in the training share of a pair of token files, so many at a time."""
    path = Path(f"{prefix}.idx")
    try:
        with open(path, "rb") as file:
            magic, _, _, sequences, _ = HEADER.unpack(file.read(HEADER.size))
            if magic != MAGIC:
                raise ConfigError(f"{path} is not an index of token files (MMIDIDX)")
            (_, end), *_ = split_bounds(split, sequences)
            for done in range(0, end, READ_AT_ONCE):
                yield _lengths(file, min(READ_AT_ONCE, end - done))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except (OSError, EOFError, struct.error) as error:
        raise ConfigError(f"{path} cannot be read, or is cut off ({error})") from error


def split_bounds(split: str, documents: int) -> list[tuple[int, int]]:
    """The documents of training, validation and test, [begin, end), by shares such as "969, 30, 1"."""
    try:
        shares = [float(share) for share in split.replace("/", ",").split(",")]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= 3 or not all(0 <= share < inf for share in shares) or sum(shares) == 0:
        raise ConfigError(f'split: {split!r} is not up to three shares of the data, as in "969, 30, 1"')
    shares += [0.0] * (3 - len(shares))
    ends = [round(sum(shares[: index + 1]) / sum(shares) * documents) for index in range(3)]
    return list(zip([0, *ends[:2]], ends, strict=True))


def _lengths(file: Any, count: int) -> array:
    """The next `count` lengths."""
    lengths = array("i")
    lengths.fromfile(file, count)
    if sys.byteorder == "big":
        lengths.byteswap()
    return lengths
