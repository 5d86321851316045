"""Read corpora in batches of records for worker processes. Knows nothing about what is done with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from neox.data.corpus import corpus_name, open_corpus
from neox.data.parts import Part, read_part
from neox.data.records import Record, Unpacking

BATCH_BYTES = 1 << 20  # a tenth of a second of encoding, or more; a longer record is a batch of its own
BATCH_RECORDS = 4_000


@dataclass(frozen=True)
class Batch:
    """Records on their way to a worker, and where the reading was after them.

    `file` counts the corpora (or parts of them), `file_records` the records of this one up to here, `position` its bytes on disk.
    """

    records: list[Record]
    file: int
    file_records: int
    position: int


def read_batches(
    parts: Sequence[Part], unpacking: Unpacking, first_part: int = 0, records_done: int = 0, most: int | None = None
) -> Iterator[Batch]:
    """The records of parts of corpora in batches of about BATCH_BYTES, none of two parts; from the record after the first
    `records_done` of part number `first_part`, and at most so many."""
    for number, part in enumerate(parts[first_part:], start=first_part):
        with open_corpus(part.path) as file:
            count = records_done if number == first_part else 0
            records = islice(read_part(part, corpus_name(part.path), file, unpacking), count, None)
            for gathered in _gathered(records):
                gathered = gathered[:most]
                if not gathered:
                    return
                count += len(gathered)
                most = None if most is None else most - len(gathered)
                yield Batch(gathered, number, count, _done_of(part, file))


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


def _done_of(part: Part, file: BinaryIO) -> int:
    """How many bytes of a part are read; a pipe does not know."""
    return min(max(file.tell(), part.begin), part.end) - part.begin if file.seekable() else 0
