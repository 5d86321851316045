"""Count what a preprocessing job has done. Knows nothing about files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from neox.data.encode import Encoded, Share
from neox.data.record_batches import Batch

SHOWN_COMPLAINTS = 10


@dataclass
class Tally:
    """How far a job is, in counts; all that it needs to go on besides its files.

    The next record is the one after `file_records` of the corpus number `file`; `records` counts them in all corpora.
    `subsets` counts documents with text, tokens and UTF-8 bytes in each subset. `complaints` holds the first bad records.
    """

    file: int = 0
    file_records: int = 0
    position: int = 0
    records: int = 0
    subsets: dict[str, Share] = field(default_factory=dict)
    empty_documents: int = 0
    bad_records: int = 0
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def restored(cls, values: dict[str, Any]) -> Tally:
        """The tally that `asdict` took apart."""
        subsets = {name: Share(**share) for name, share in values["subsets"].items()}
        return cls(**values | {"subsets": subsets})

    def add(self, batch: Batch, result: Encoded) -> None:
        """Count a batch in."""
        self.file, self.file_records, self.position = batch.file, batch.file_records, batch.position
        self.records += len(batch.records)
        for name, share in result.subsets.items():
            self.subsets.setdefault(name, Share()).add(share)
        self.empty_documents += result.empty_documents
        self.bad_records += len(result.complaints)
        room = SHOWN_COMPLAINTS - len(self.complaints)
        self.complaints += [f"{place}: {sentence}" for place, sentence in result.complaints[:room]]

    def total(self) -> Share:
        """The counts of all subsets together."""
        total = Share()
        for share in self.subsets.values():
            total.add(share)
        return total
