"""Token files: write, check and describe the .bin/.idx pair (MMIDIDX) that megatron-core and gpt-neox read.

    .bin   the tokens of all sequences, one after another
    .idx   b"MMIDIDX\\0\\0" | version 1 (u64) | dtype code (u8) | sequences (u64) | document marks (u64)
           | length of each sequence in tokens (i32) | its offset in .bin in bytes (i64)
           | sequence at which each document begins, and one past the last (i64)

All little-endian. Here a document is one sequence. Knows nothing about text, tokenizers or torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy

from neox.config.epochs import HEADER, MAGIC
from neox.config.errors import ConfigError
from neox.data.files import flush_to_disk

VERSION = 1

# the codes that hold tokens; the others (float, int8, int16) are left out, so that a damaged code is seen
DTYPES = {1: numpy.uint8, 4: numpy.int32, 5: numpy.int64, 8: numpy.uint16}
CODES = {numpy.dtype(dtype): code for code, dtype in DTYPES.items()}

NO_LABEL = -100  # in files of labels: a token that is not learned, as in gpt-neox and torch

LENGTH = numpy.dtype(numpy.int32)

# sequences read at a time while an index is checked: some 20 MB
CHECKED_AT_ONCE = 1_000_000


def token_dtype(vocab_size: int) -> numpy.dtype:
    """The dtype of stored tokens: uint16 below 65,500 ids, else int32, as megatron-core and gpt-neox choose."""
    return numpy.dtype(numpy.uint16 if vocab_size < 65_500 else numpy.int32)


@dataclass(frozen=True)
class StoreFacts:
    """What the index of a pair of token files says."""

    sequences: int
    documents: int
    tokens: int
    dtype: numpy.dtype


class StoreWriter:
    """Write a pair of token files, streaming: `<prefix>.bin` and `<prefix>.lengths`, and at the end `<prefix>.idx`.

    Nothing of them stays in memory, and nothing is kept from a reader's eyes: write in a `Workplace`. `sequences` and `tokens` say
    how much of the files a run that goes on takes over; what follows is cut off.
    """

    def __init__(self, prefix: str | Path, dtype: numpy.dtype, sequences: int = 0, tokens: int = 0):
        self.prefix = str(prefix)
        self.dtype = numpy.dtype(dtype)
        self.sequences = sequences
        self.tokens = tokens
        self._bin = _open_at(Path(f"{prefix}.bin"), tokens * self.dtype.itemsize)
        self._lengths = _open_at(Path(f"{prefix}.lengths"), sequences * LENGTH.itemsize)
        self._bin.seek(0)
        self._sha256 = hashlib.file_digest(self._bin, "sha256")  # leaves the file at its end

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_) -> None:
        self._bin.close()
        self._lengths.close()

    def add(self, tokens: numpy.ndarray, lengths: numpy.ndarray) -> None:
        """Append documents: their tokens one after another, of the store's dtype, and the length of each."""
        assert tokens.dtype == self.dtype and int(lengths.sum()) == tokens.size
        content = memoryview(tokens).cast("B") if tokens.size else b""
        self._bin.write(content)
        self._sha256.update(content)
        self._lengths.write(lengths.astype(LENGTH).tobytes())
        self.sequences += lengths.size
        self.tokens += tokens.size

    def flush(self) -> None:
        """Return once all that was added would survive a power cut."""
        flush_to_disk(self._lengths)
        flush_to_disk(self._bin)

    def finish(self) -> dict[str, str]:
        """Write the index. The SHA-256 of each file, by suffix."""
        self.flush()
        with open(f"{self.prefix}.idx", "w+b") as index:
            self._write_index(index)
            flush_to_disk(index)
            index.seek(0)
            return {".bin": self._sha256.hexdigest(), ".idx": hashlib.file_digest(index, "sha256").hexdigest()}

    def _write_index(self, index: BinaryIO) -> None:
        index.write(HEADER.pack(MAGIC, VERSION, CODES[self.dtype], self.sequences, self.sequences + 1))
        for lengths in self._written_lengths():
            index.write(lengths.tobytes())
        offset = 0
        for lengths in self._written_lengths():
            ends = offset + numpy.cumsum(lengths, dtype=numpy.int64) * self.dtype.itemsize
            index.write((ends - lengths.astype(numpy.int64) * self.dtype.itemsize).tobytes())
            offset = int(ends[-1])
        for begin in range(0, self.sequences + 1, CHECKED_AT_ONCE):
            index.write(
                numpy.arange(begin, min(begin + CHECKED_AT_ONCE, self.sequences + 1), dtype=numpy.int64).tobytes()
            )

    def _written_lengths(self) -> Iterator[numpy.ndarray]:
        """The lengths of all sequences, so many at a time."""
        self._lengths.seek(0)
        while content := self._lengths.read(CHECKED_AT_ONCE * LENGTH.itemsize):
            yield numpy.frombuffer(content, dtype=LENGTH)


def check_store(prefix: str | Path, may_be_empty: bool = False) -> StoreFacts:
    """Check that a pair of token files is whole and belongs together, reading the index only.

    Raises ConfigError that names the file: a missing one, a wrong header, lengths that do not add up to the .bin, offsets that
    do not follow from the lengths, document marks out of order, no tokens at all (unless `may_be_empty`).
    """
    bin_path, idx_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    for path in (idx_path, bin_path):
        if not path.is_file():
            raise ConfigError(f"there is no file {path}: tools/preprocess_data.py makes token files")
    sequences, marks, dtype = _read_header(idx_path)
    lengths, offsets, documents = _map_index(idx_path, sequences)

    expected_offset = 0
    for begin in range(0, sequences, CHECKED_AT_ONCE):
        part = slice(begin, begin + CHECKED_AT_ONCE)
        nbytes = lengths[part].astype(numpy.int64) * dtype.itemsize
        if (nbytes < 0).any():
            raise ConfigError(f"{idx_path}: a sequence has a negative length: the file is damaged")
        ends = expected_offset + numpy.cumsum(nbytes)
        if not numpy.array_equal(offsets[part], ends - nbytes):
            raise ConfigError(f"{idx_path}: the offsets do not follow from the lengths: the file is damaged")
        expected_offset = int(ends[-1])

    if marks == 0 or documents[0] != 0 or documents[-1] != sequences or not _rising(documents):
        raise ConfigError(f"{idx_path}: the document marks do not run from 0 to {sequences}: the file is damaged")
    size = bin_path.stat().st_size
    if size != expected_offset:
        raise ConfigError(
            f"{bin_path}: {size:,} bytes, and its index asks for {expected_offset:,}: the files are damaged or do not belong "
            "together"
        )
    if size == 0 and not may_be_empty:
        raise ConfigError(f"{bin_path}: there are no tokens in it")
    return StoreFacts(sequences, marks - 1, size // dtype.itemsize, dtype)


def count_documents(prefix: str | Path) -> int:
    """Documents of a store, from the header of its index alone."""
    _, marks, _ = _read_header(Path(f"{prefix}.idx"))
    return marks - 1


def read_lengths(prefix: str | Path) -> Iterator[numpy.ndarray]:
    """The lengths of a checked store's sequences, (some,) int32 in tokens, so many at a time."""
    path = Path(f"{prefix}.idx")
    sequences, _, _ = _read_header(path)
    lengths, _, _ = _map_index(path, sequences)
    for begin in range(0, sequences, CHECKED_AT_ONCE):
        yield numpy.array(lengths[begin : begin + CHECKED_AT_ONCE])


def _read_header(path: Path) -> tuple[int, int, numpy.dtype]:
    """Sequences, document marks and dtype of an index, checked against the size of the file."""
    with open(path, "rb") as index:
        header = index.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise ConfigError(f"{path}: it is not an index of token files (MMIDIDX), or it is cut off")
    _, version, code, sequences, marks = HEADER.unpack(header)
    if version != VERSION:
        raise ConfigError(f"{path}: version {version} of the format is not known, only {VERSION}")
    if code not in DTYPES:
        known = ", ".join(numpy.dtype(dtype).name for dtype in DTYPES.values())
        raise ConfigError(f"{path}: dtype code {code} is not one that holds tokens ({known})")
    size, expected = path.stat().st_size, HEADER.size + 12 * sequences + 8 * marks
    if size != expected:
        raise ConfigError(f"{path}: {size:,} bytes instead of the {expected:,} that its header asks for: it is damaged")
    return sequences, marks, numpy.dtype(DTYPES[code])


def _map_index(path: Path, sequences: int) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Lengths (sequences,) int32, offsets (sequences,) int64 and document marks int64, mapped from the file."""
    raw = numpy.memmap(path, mode="r")
    offsets_at = HEADER.size + 4 * sequences
    marks_at = offsets_at + 8 * sequences
    return (
        raw[HEADER.size : offsets_at].view(numpy.int32),
        raw[offsets_at:marks_at].view(numpy.int64),
        raw[marks_at:].view(numpy.int64),
    )


def _rising(values: numpy.ndarray) -> bool:
    """Whether no value is smaller than the one before it."""
    chunks = range(0, len(values), CHECKED_AT_ONCE)
    return all((numpy.diff(values[begin : begin + CHECKED_AT_ONCE + 1]) >= 0).all() for begin in chunks)


def _open_at(path: Path, size: int) -> BinaryIO:
    """A file to write on after its first bytes; ConfigError where they are not there or it cannot be written."""
    try:
        file = open(path, "r+b" if size else "w+b")  # noqa: SIM115 (the writer closes it)
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be written ({error.strerror})") from error
    if file.seek(0, os.SEEK_END) < size:
        file.close()
        raise ConfigError(
            f"{path}: it is shorter than the {size:,} bytes that were written before (--overwrite starts over)"
        )
    file.truncate(size)
    file.seek(size)
    return file
