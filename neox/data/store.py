"""Token files: write, check and describe the .bin/.idx pair (MMIDIDX) that megatron-core and gpt-neox read.

    .bin   the tokens of all sequences, one after another
    .idx   b"MMIDIDX\\0\\0" | version 1 (u64) | dtype code (u8) | sequences (u64) | document marks (u64)
           | length of each sequence in tokens (i32) | its offset in .bin in bytes (i64)
           | sequence at which each document begins, and one past the last (i64)

All little-endian. Here a document is one sequence. Knows nothing about text, tokenizers or torch.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy

from neox.config.errors import ConfigError
from neox.data.files import flush_folder, flush_to_disk, lock

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
VERSION = 1

# the codes that hold tokens; the others (float, int8, int16) are left out, so that a damaged code is seen
DTYPES = {1: numpy.uint8, 4: numpy.int32, 5: numpy.int64, 8: numpy.uint16}
CODES = {numpy.dtype(dtype): code for code, dtype in DTYPES.items()}

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
    """Write a pair of token files, streaming; they appear under their names only when `publish` is called.

    Until then the tokens are in `<prefix>.bin.partial`, which a later run writes over. Leaving the `with` block without
    `publish` removes it. Raises ConfigError where another run is writing the same prefix.
    """

    def __init__(self, prefix: str | Path, dtype: numpy.dtype):
        self.prefix = str(prefix)
        self.dtype = numpy.dtype(dtype)
        self.lengths = array("i")
        self.tokens = 0
        self._partial = {suffix: Path(f"{self.prefix}{suffix}.partial") for suffix in (".bin", ".idx")}
        self._bin = _open_alone(self._partial[".bin"])

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_) -> None:
        # the files go before the lock does: another run may take the name as soon as this one lets go
        if not self._bin.closed:
            for path in self._partial.values():
                path.unlink(missing_ok=True)
            self._bin.close()

    def add(self, tokens: numpy.ndarray, lengths: numpy.ndarray) -> None:
        """Append documents: their tokens one after another, of the store's dtype, and the length of each."""
        assert tokens.dtype == self.dtype and int(lengths.sum()) == tokens.size
        self._bin.write(memoryview(tokens).cast("B") if tokens.size else b"")
        self.lengths.extend(lengths.tolist())
        self.tokens += tokens.size

    def publish(self) -> None:
        """Give the files their names, the index last: whoever finds an .idx finds the .bin that belongs to it."""
        with open(self._partial[".idx"], "wb") as index:
            self._write_index(index)
            flush_to_disk(index)
        flush_to_disk(self._bin)
        Path(f"{self.prefix}.idx").unlink(missing_ok=True)
        for suffix in (".bin", ".idx"):
            os.replace(self._partial[suffix], f"{self.prefix}{suffix}")
        flush_folder(Path(self.prefix).parent)
        self._bin.close()

    def _write_index(self, index) -> None:
        lengths = numpy.frombuffer(self.lengths, dtype=numpy.int32)
        ends = numpy.cumsum(lengths, dtype=numpy.int64) * self.dtype.itemsize
        index.write(HEADER.pack(MAGIC, VERSION, CODES[self.dtype], lengths.size, lengths.size + 1))
        index.write(lengths.tobytes())
        index.write((ends - lengths.astype(numpy.int64) * self.dtype.itemsize).tobytes())
        index.write(numpy.arange(lengths.size + 1, dtype=numpy.int64).tobytes())


def check_store(prefix: str | Path) -> StoreFacts:
    """Check that a pair of token files is whole and belongs together, reading the index only.

    Raises ConfigError that names the file: a missing one, a wrong header, lengths that do not add up to the .bin, offsets that
    do not follow from the lengths, document marks out of order, no tokens at all.
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
    if size == 0:
        raise ConfigError(f"{bin_path}: there are no tokens in it")
    return StoreFacts(sequences, marks - 1, size // dtype.itemsize, dtype)


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


def _open_alone(path: Path):
    """Open a file for writing, emptied, and hold it against other runs; ConfigError where that cannot be."""
    while True:
        try:
            file = open(path, "ab")  # noqa: SIM115 (the writer closes it)
        except OSError as error:
            raise ConfigError(f"{path}: it cannot be written ({error.strerror})") from error
        try:
            lock(file, wait=False)
        except BlockingIOError as error:
            file.close()
            raise ConfigError(f"{path}: another run is writing this output") from error
        if _is_at(path, file):
            file.truncate(0)
            return file
        file.close()  # a run that just ended renamed or removed it between our open and our lock


def _is_at(path: Path, file) -> bool:
    """Whether an open file still stands at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
