"""What a worker does with a batch of records: parse, run the stages on each text, and pack what is left. Knows nothing about files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy
import orjson
import zstandard

from neox.data.corpus import RecordError, parse
from neox.data.records import Record
from tools.curation.duplicates import COLUMNS, Keys
from tools.curation.report import StageReport
from tools.curation.stages import PROSE_STAGES, Stage, StageOptions, build_stages


@dataclass(frozen=True)
class Curated:
    """A batch on its way back.

    `frame` is a zstd frame of JSON lines, `keys` (documents kept, COLUMNS) uint64; `stages` count what was done.
    """

    frame: bytes
    keys: numpy.ndarray
    stages: dict[str, StageReport]
    text_bytes: int
    complaints: list[tuple[str, str]]  # place and sentence of each bad record


class Curator:
    """The stages, and what they run on: the text under `key`, where the subset is not one of `exempt` from the rules for prose."""

    def __init__(self, key: str, options: StageOptions, exempt: frozenset[str]):
        self.key = key
        self.options = options
        self.exempt = exempt

    @cached_property  # made in each worker: models are not sent
    def stages(self) -> dict[str, Stage]:
        return build_stages(self.options)

    @cached_property
    def keys(self) -> Keys:
        return Keys(exact="exact" in self.options.names, near="near" in self.options.names)

    def __call__(self, records: list[Record]) -> Curated:
        reports = {name: StageReport() for name in self.stages}
        lines, keys, complaints, text_bytes = [], [], [], 0
        for record in records:
            try:
                document = parse(record, (self.key,))
            except RecordError as error:
                complaints.append((record.place, str(error)))
                continue
            text_bytes += len(document.texts[0].encode())
            text = self._through_stages(document.texts[0], document.subset, document.place, reports)
            if text is not None:
                lines.append(packed(text, document.subset))
                keys.append(self.keys(text))
        return Curated(
            frame=zstandard.ZstdCompressor().compress(b"".join(lines)) if lines else b"",
            keys=numpy.array(keys, numpy.uint64).reshape(-1, COLUMNS),
            stages=reports,
            text_bytes=text_bytes,
            complaints=complaints,
        )

    def _through_stages(self, text: str, subset: str, place: str, reports: dict[str, StageReport]) -> str | None:
        """What is left of a text; None where a stage removes it."""
        for name, stage in self.stages.items():
            if name in PROSE_STAGES and subset in self.exempt:
                continue
            outcome = stage(text)
            reports[name].count(subset, text, outcome.text, outcome.reasons, place, outcome.shown)
            if outcome.text is None:
                return None
            text = outcome.text
        return text


def packed(text: str, subset: str) -> bytes:
    """The line of a document. Nothing else of its record goes on: what no stage has looked at may be anybody's data."""
    document = {"text": text} | ({"meta": {"pile_set_name": subset}} if subset else {})
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
