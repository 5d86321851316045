"""Curate corpora: from raw documents to a folder of cleaned ones and a report.

    first pass   records -> workers: stages on each text, keys for finding copies -> parts and keys in the workplace
    then         the keys, sorted on their own, say which documents are copies of earlier ones
    second pass  parts -> parts without the copies -> the folder gets its name

The order of documents, and every byte, is the same for any number of workers. A run that was stopped goes on after its last
finished part.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
import zstandard

from neox.config.errors import ConfigError
from neox.data.corpus import STANDARD_INPUT, find_corpora
from neox.data.encode import Workers, worker_processes
from neox.data.files import flush_folder, flush_to_disk, write_durably
from neox.data.record_batches import Batch, read_batches
from neox.data.records import TextUnit, Unpacking, read_records
from neox.data.shards import Shard
from neox.data.sources import check_unchanged, stamp
from neox.data.workplace import Workplace
from tools.curation.curator import Curated, Curator
from tools.curation.duplicates import COLUMNS, copies
from tools.curation.evaluations import write_index
from tools.curation.report import StageReport, markdown
from tools.curation.stages import StageOptions, build_stages

PART_BYTES = 1 << 28  # of text read, for each part: what a stopped run does again at most
COPY_STAGES = ("exact", "near")  # which need all documents
SHOWN_COMPLAINTS = 10


@dataclass(frozen=True)
class CurationJob:
    """What to read, what to do, and the folder to make. `inputs` and `evaluations` are names for `find_corpora`."""

    inputs: list[str]
    output: Path
    stages: tuple[str, ...]
    languages: tuple[str, ...] = ("en",)
    evaluations: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()
    phone_region: str = "US"
    key: str = "text"
    text_unit: TextUnit = "file"
    workers: int = 1
    skip_bad_records: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Progress:
    """How far the first pass is: bytes on disk, records, and the text that this process went through in `seconds`."""

    total_bytes: int
    read_bytes: int
    records: int
    session_text_bytes: int
    seconds: float


@dataclass
class Done:
    """How far a job is: what is kept besides its parts. The next record is after `file_records` of the corpus number `file`."""

    file: int = 0
    file_records: int = 0
    records: int = 0
    parts: int = 0
    kept: int = 0
    bad_records: int = 0
    read: bool = False


def curate(job: CurationJob, report: Callable[[Progress], None] = lambda _: None) -> dict[str, StageReport]:
    """Run a job; what each stage did. The folder `output` appears at the end, whole, or not at all.

    Raises ConfigError for whatever the user can mend.
    """
    paths = find_corpora(job.inputs).paths
    if STANDARD_INPUT in paths:
        raise ConfigError("--input -: standard input cannot be read again where a run was stopped: give files")
    evaluations = find_corpora(job.evaluations).paths
    stamps = [stamp(path) for path in [*paths, *evaluations]]
    if job.output.exists():
        raise ConfigError(f"{job.output}: it is there already: remove it, or give another --output")
    workplace = Workplace(job.output, _identity(job, paths, evaluations, stamps), job.overwrite)
    index = workplace.folder / "evaluations"
    options = StageOptions(job.stages, job.languages, index if evaluations else None, job.phone_region)
    curator = Curator(job.key, options, frozenset(job.exempt))
    with worker_processes(curator, job.workers) as curated, workplace:
        if evaluations:
            write_index(evaluations, index)
        build_stages(options)  # its complaints come before a worker has anything to do
        run = _Run(job, paths, workplace)
        if not run.done.read:
            run.read(curated, report)
            check_unchanged([*paths, *evaluations], stamps)
            run.save(read=True)
        run.drop_copies()
        run.write_report()
        workplace.publish([job.output.name])
    return run.stages


class _Run:
    """A job at work in its workplace."""

    def __init__(self, job: CurationJob, paths: list[Path], workplace: Workplace):
        self.job = job
        self.paths = paths
        self.workplace = workplace
        state = workplace.state or {"done": {}, "stages": {}, "complaints": []}
        self.done = Done(**state["done"])
        self.complaints: list[str] = state["complaints"]
        self.stages = {name: StageReport.restored(state["stages"].get(name, {})) for name in job.stages}
        self.key_files = [workplace.folder / f"keys-{column:02}" for column in range(COLUMNS)]
        self.folder = workplace.folder / job.output.name

    def read(self, curated: Workers, report: Callable[[Progress], None]) -> None:
        """The first pass."""
        sizes = [stamp(path)[0] for path in self.paths]
        ends = list(accumulate(sizes, initial=0))
        started, text_bytes = time.monotonic(), 0
        unpacking = Unpacking((self.job.key,), self.job.text_unit)
        batches = read_batches(Shard().of(self.paths, sizes), unpacking, self.done.file, self.done.file_records)
        part, part_bytes = self._open_part(), 0
        try:
            for batch, result in curated(batches):
                self._take(batch, result, part)
                text_bytes += result.text_bytes
                part_bytes += result.text_bytes
                if part_bytes >= PART_BYTES:
                    self._finish(part)
                    part, part_bytes = self._open_part(), 0
                read = ends[batch.file] + batch.position
                report(Progress(ends[-1], read, self.done.records, text_bytes, time.monotonic() - started))
            if not self.done.records:
                names = ", ".join(map(str, self.paths))
                raise ConfigError([*self.complaints, f"no document in {names}: nothing is written"])
            self._finish(part)
        finally:
            for file in part:
                file.close()

    def _open_part(self) -> list:
        """The next part, and the keys, which go on where the last finished part left them."""
        files = [open(self._part(self.done.parts), "wb")]  # noqa: SIM115 (the caller closes them)
        for path in self.key_files:
            file = open(path, "ab")  # noqa: SIM115
            file.truncate(8 * self.done.kept)
            files.append(file)
        return files

    def _take(self, batch: Batch, result: Curated, part: list) -> None:
        """Count a batch in, and write it."""
        if result.complaints and not self.job.skip_bad_records:
            place, sentence = result.complaints[0]
            raise ConfigError(f"{place}: {sentence} (--on-error skip counts such records and goes on)")
        documents, *columns = part
        documents.write(result.frame)
        for file, column in zip(columns, result.keys.T, strict=True):
            file.write(column.tobytes())
        for name, stage in result.stages.items():
            self.stages[name].add(stage)
        room = SHOWN_COMPLAINTS - len(self.complaints)
        self.complaints += [f"{place}: {sentence}" for place, sentence in result.complaints[:room]]
        self.done.file, self.done.file_records = batch.file, batch.file_records
        self.done.records += len(batch.records) - len(result.complaints)
        self.done.bad_records += len(result.complaints)
        self.done.kept += len(result.keys)

    def _finish(self, part: list) -> None:
        """Bring a part to the disk, and note that it is there."""
        for file in part:
            flush_to_disk(file)
            file.close()
        self.done.parts += 1
        self.save()

    def save(self, read: bool = False) -> None:
        """Keep how far the job is."""
        self.done.read = read
        stages = {name: asdict(stage) for name, stage in self.stages.items()}
        self.workplace.save({"done": asdict(self.done), "stages": stages, "complaints": self.complaints})

    def drop_copies(self) -> None:
        """The second pass."""
        exact, near = copies(self.key_files, self.done.kept)
        self.stages |= {name: StageReport() for name in COPY_STAGES if name in self.job.stages}
        self.folder.mkdir(exist_ok=True)
        row = 0
        for number in range(self.done.parts):
            part, target = self._part(number), self.folder / self._part(number).name
            with (
                open(part, "rb") as whole,
                open(target, "wb") as file,
                zstandard.ZstdCompressor().stream_writer(file, closefd=False) as writer,
            ):
                for record in read_records(target.name, whole, Unpacking()):
                    place = f"document {row + 1:,} of those left until then"
                    if not self._is_copy(record.content, exact[row], near[row], place):
                        writer.write(record.content)
                    row += 1
                writer.flush(zstandard.FLUSH_FRAME)
                flush_to_disk(file)

    def _is_copy(self, line: bytes, exact: bool, near: bool, place: str) -> bool:
        """Whether a document is one, counted."""
        document = orjson.loads(line)
        text, subset = document["text"], document.get("meta", {}).get("pile_set_name", "")
        for name, found, reason in zip(COPY_STAGES, (exact, near), ("equal to an earlier one", "like an earlier one")):
            if name in self.job.stages:
                self.stages[name].count(subset, text, None if found else text, {reason: 1} if found else {}, place, "")
            if found:
                return True
        return False

    def write_report(self) -> None:
        """`report.json` and `report.md`."""
        facts = {
            "stages": ", ".join(self.stages),
            "documents read": self.done.records,
            "bad records left out": self.done.bad_records,
        }
        content = {
            **facts,
            "complaints": self.complaints,
            "stages": {name: asdict(stage) | {"total": asdict(stage.total())} for name, stage in self.stages.items()},
        }
        write_durably(self.folder / "report.json", orjson.dumps(content, option=orjson.OPT_INDENT_2))
        write_durably(self.folder / "report.md", markdown(self.stages, facts).encode())
        flush_folder(self.folder)

    def _part(self, number: int) -> Path:
        return self.workplace.folder / f"part-{number:05}.jsonl.zst"


def _identity(job: CurationJob, paths: list[Path], evaluations: list[Path], stamps: list[list[int]]) -> dict[str, Any]:
    """What makes two jobs the same: then one goes on where the other broke off, to the same bytes."""
    names = [[str(path), *old] for path, old in zip([*paths, *evaluations], stamps)]
    return {
        # a long list of files is kept as its hash
        "input": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "evaluations": len(evaluations),
        "stages": list(job.stages),
        "languages": list(job.languages),
        "exempt": sorted(job.exempt),
        "phone-region": job.phone_region,
        "key": job.key,
        "text-unit": job.text_unit,
    }
