"""Read corpora in batches of records for worker processes. Knows nothing about what is done with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from neox.data.corpus import corpus_name, open_corpus
from neox.data.records import Record, Unpacking, read_records

BATCH_BYTES = 1 << 20  # a tenth of a second of encoding, or more; a longer record is a batch of its own
BATCH_RECORDS = 4_000


@dataclass(frozen=True)
class Batch:
    """Records on their way to a worker, and where the reading was after them.

    `file` counts the corpora, `file_records` the records of this one up to here, `position` its bytes on disk.
    """

    records: list[Record]
    file: int
    file_records: int
    position: int


def read_batches(
    paths: list[Path], unpacking: Unpacking, first_file: int = 0, records_done: int = 0, most: int | None = None
) -> Iterator[Batch]:
    """The records of corpora in batches of about BATCH_BYTES, none of two files; from the record after the first `records_done` of
    file number `first_file`, and at most so many."""
    for number in range(first_file, len(paths)):
        with open_corpus(paths[number]) as file:
            count = records_done if number == first_file else 0
            records = islice(read_records(corpus_name(paths[number]), file, unpacking), count, None)
            for gathered in _gathered(records):
                gathered = gathered[:most]
                if not gathered:
                    return
                count += len(gathered)
                most = None if most is None else most - len(gathered)
                yield Batch(gathered, number, count, _position(file))


def _gathered(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Records in lists of about BATCH_BYTES."""
    gathered, size = [], 0
    for record in records:
        gathered.append(record)
        size += len(record.content)
        if size >= BATCH_BYTES or len(gathered) == BATCH_RECORDS:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered


def _position(file: BinaryIO) -> int:
    """How much of a file is read; a pipe does not know."""
    return file.tell() if file.seekable() else 0
