"""Read a part of a corpus: the records whose reading begins in a range of the file's bytes. Knows nothing about machines.

However a file is cut, every record is in one part, and the parts one after another are the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from neox.data.records import Record, Unpacking, is_plain_lines, read_records


@dataclass(frozen=True)
class Part:
    """The records of a file of `size` bytes that begin in its bytes [begin, end)."""

    path: Path
    begin: int
    end: int
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the file."""
        return self.end - self.begin == self.size


def read_part(part: Part, name: str, file: BinaryIO, unpacking: Unpacking) -> Iterator[Record]:
    """The records of a part, of a file opened at its beginning; `name` is what `read_records` takes.

    Lines are sought where they are. What is packed must be unpacked from its beginning: there a record begins at the byte up to which
    the file was read when it was unpacked, a multiple of a block, so that packed files are cut less evenly. A table is not cut: the
    part with its beginning has it all.
    """
    if part.is_whole:
        yield from read_records(name, file, unpacking)
    elif is_plain_lines(name, unpacking):
        # the first line is what is left of one that begins in the part before, or nothing; so the places of records are those of
        # `tail -c +BYTE FILE`
        place = f"{name} (from byte {part.begin:,})" if part.begin else name
        for record in read_records(name, _lines(part, file), unpacking):
            yield record._replace(source=place)
    elif not name.endswith(".parquet"):
        yield from _begun_within(part, read_records(name, file, unpacking), file)
    elif part.begin == 0:
        yield from read_records(name, file, unpacking)


def _lines(part: Part, file: BinaryIO) -> Iterator[bytes]:
    """The lines that begin in the part, after an empty one where it does not begin with the file."""
    position = 0
    if part.begin:
        file.seek(part.begin - 1)
        position = part.begin - 1 + len(file.readline())
        yield b"\n"
    while position < part.end and (line := file.readline()):
        position += len(line)
        yield line


def _begun_within(part: Part, records: Iterator[Record], file: BinaryIO) -> Iterator[Record]:
    """Those of a file's records that begin in the part; once all is read, what comes yet belongs to the last part."""
    position = 0
    for record in records:
        if position >= part.end < part.size:
            return
        if position >= part.begin:
            yield record
        position = max(position, file.tell())  # a zip file is read at its end first
