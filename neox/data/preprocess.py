"""Turn raw corpora into token files. Knows nothing about training.

    records -> batches -> workers -> arrays of tokens -> one pair of token files and a manifest for each key

Order is that of the input whatever the number of workers, and only a few batches are in memory at a time. Everything is made in a
workplace beside the output; every few seconds it is brought to the disk with a note of how far it is, from where the same job goes
on if it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.chat_template import find_template
from neox.data.corpus import STANDARD_INPUT, find_corpora
from neox.data.encode import Encoded, Encoder, Workers, ftfy_function, worker_processes
from neox.data.encode_chat import ChatEncoder
from neox.data.files import write_durably
from neox.data.manifest import manifest
from neox.data.parts import Part
from neox.data.record_batches import read_batches
from neox.data.records import TextUnit, Unpacking
from neox.data.shards import Shard
from neox.data.sources import SourceHashes, check_unchanged, stamp
from neox.data.store import StoreWriter
from neox.data.tally import Tally
from neox.data.workplace import Workplace
from neox.tokenizer.tokenizer import Tokenizer, build_tokenizer
from neox.tokenizer.vocabulary import file_hashes, located

SECONDS_BETWEEN_SAVES = 5.0


@dataclass(frozen=True)
class PreprocessJob:
    """What to read, how to encode it, and where to write it.

    `inputs` are names for `find_corpora`; `num_docs` stops after so many records; `skip_bad_records` counts what cannot be read
    instead of stopping at it; `overwrite` drops what another job left unfinished under the same output. With `chat_key`, chats
    under that key are read instead of texts, and written as tokens and labels by `chat_template`, or by that of the tokenizer.
    """

    inputs: list[str]
    output_prefix: str
    tokenizer: TokenizerConfig
    jsonl_keys: tuple[str, ...] = ("text",)
    chat_key: str | None = None
    chat_template: Path | None = None
    text_unit: TextUnit = "file"
    append_eod: bool = False
    ftfy: bool = False
    num_docs: int | None = None
    shard: Shard = Shard()
    workers: int = 1
    skip_bad_records: bool = False
    overwrite: bool = False

    @property
    def prefix(self) -> str:
        """The prefix of all files that it writes."""
        return f"{self.output_prefix}{self.shard.suffix}"

    @property
    def keys(self) -> tuple[str, ...]:
        """What is read of a record."""
        return self.jsonl_keys if self.chat_key is None else (self.chat_key, "tools")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is written: the keys, and the labels of a chat."""
        return self.jsonl_keys if self.chat_key is None else (self.chat_key, f"{self.chat_key}_label")

    def key_prefix(self, key: str) -> str:
        """The prefix of the token files of one output."""
        return f"{self.prefix}_{key}_document"


@dataclass(frozen=True)
class Progress:
    """How far a job is. `read_bytes` of `total_bytes` on disk are done; `text_bytes` is the text that was encoded, as UTF-8.

    Of these, `session_text_bytes` and `session_tokens` were done in the `seconds` since this process began.
    """

    total_bytes: int
    read_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    seconds: float = 0.0
    session_text_bytes: int = 0
    session_tokens: int = 0


@dataclass(frozen=True)
class PreprocessResult:
    """What a job wrote and what it left out. `left_out` are files of folders that no reader takes."""

    prefixes: list[str]
    dtypes: list[numpy.dtype]
    progress: Progress
    tally: Tally
    left_out: list[Path]


def preprocess(job: PreprocessJob, report: Callable[[Progress], None] = lambda _: None) -> PreprocessResult:
    """Run a job: `<prefix>_<key>_document.bin`, `.idx` and `.json` of each key appear at its end, whole, or not at all.

    A job that was stopped goes on where it was. `report` is called after every batch. Raises ConfigError for whatever the user can
    mend: an input that is missing or cannot be read, a tokenizer's file, an output that cannot be written, no document at all.
    """
    found = find_corpora(job.inputs)
    if job.shard.count > 1 and STANDARD_INPUT in found.paths:
        raise ConfigError("--shard: standard input cannot be shared, only files")
    if job.shard.count > 1 and job.num_docs is not None:
        raise ConfigError("--num-docs: a shard does not know how many records the shards before it have")
    parts = job.shard.of(found.paths, [stamp(path)[0] for path in found.paths])
    stamps = [stamp(part.path) for part in parts]
    _check_keys(job.outputs)
    tokenizer = build_tokenizer(job.tokenizer)  # before a worker starts: its complaint comes at once, and only once
    tokenizer.encode_batch([""])  # finds its fast way here, and not again in each worker
    if job.append_eod and tokenizer.eod is None:
        raise ConfigError(f"append_eod: the vocabulary of {job.tokenizer.vocab_file} has no token that ends a document")
    if job.ftfy:
        ftfy_function()
    encoder = _encoder(job, tokenizer)

    with (
        worker_processes(encoder, job.workers) as encoded,
        Workplace(job.prefix, _identity(job, encoder, parts, stamps), job.overwrite) as workplace,
    ):
        run = _Run(job, parts, encoder, workplace)
        progress = run.encode(encoded, report)
        if not run.is_complete():
            check_unchanged([part.path for part in parts], stamps)
            run.complete()
        names = [Path(job.key_prefix(key)).name + suffix for key in job.outputs for suffix in (".bin", ".json", ".idx")]
        workplace.publish(names)
    prefixes = [job.key_prefix(key) for key in job.outputs]
    return PreprocessResult(prefixes, run.encoder.dtypes, progress, run.tally, found.left_out)


class _Run:
    """A job at work in its workplace."""

    def __init__(self, job: PreprocessJob, parts: list[Part], encoder: Encoder, workplace: Workplace):
        self.job = job
        self.parts = parts
        self.workplace = workplace
        self.encoder = encoder
        state = workplace.state or {}
        self.tally = Tally.restored(state["tally"]) if state else Tally()
        self.hashes: dict[str, str] = state.get("hashes", {})
        self.stores: list[dict[str, int]] = state.get("stores") or [{} for _ in job.outputs]
        self.bytes_before = list(accumulate((part.end - part.begin for part in parts), initial=0))
        self.before = self.tally.total()  # what earlier processes did
        self.started = time.monotonic()

    def is_complete(self) -> bool:
        """Whether nothing is left but to give the files their names."""
        return bool(self.workplace.state and self.workplace.state["complete"])

    def encode(self, encoded: Workers, report: Callable[[Progress], None]) -> Progress:
        """Encode all that is left into the partial files."""
        if self.is_complete():
            return self._progress()
        with ExitStack() as stack:
            writers = [stack.enter_context(writer) for writer in self._writers()]
            begun = [part.path for part in self.parts if part.begin == 0]  # the hash of a file is one shard's to find
            hashes = stack.enter_context(SourceHashes(begun, self.hashes))
            # the files and the tally change one after another: what is saved when the job is stopped is the note taken after both
            noted, saved = self._note(writers), time.monotonic()
            batches = read_batches(
                self.parts,
                Unpacking(self.job.keys, self.job.text_unit),
                first_part=self.tally.file,
                records_done=self.tally.file_records,
                most=None if self.job.num_docs is None else self.job.num_docs - self.tally.records,
            )
            try:
                for batch, result in encoded(batches):
                    self._check(result)
                    for writer, tokens, lengths in zip(writers, result.tokens, result.lengths, strict=True):
                        writer.add(tokens, lengths)
                    self.tally.add(batch, result)
                    noted = self._note(writers)
                    if any(writer.tokens for writer in writers) and time.monotonic() - saved >= SECONDS_BETWEEN_SAVES:
                        self._save(writers, noted, hashes.found())
                        saved = time.monotonic()
                    report(self._progress())
                if not any(writer.tokens for writer in writers) and not self._may_be_empty():
                    names = ", ".join(str(part.path) for part in self.parts)
                    raise ConfigError([*self.tally.complaints, f"no document with text in {names}: nothing is written"])
                self.hashes = hashes.all()
            except BaseException:
                if noted["tally"]["records"] and any(store["tokens"] for store in noted["stores"]):
                    with suppress(OSError):  # a full disk: the note before this one holds
                        self._save(writers, noted, hashes.found())
                raise
            self.stores = noted["stores"]
            self._save(writers, noted, self.hashes)
        return self._progress()

    def complete(self) -> None:
        """Make the files whole in the workplace: the index and the manifest of each key."""
        for key, dtype, column, store in zip(
            self.job.outputs, self.encoder.dtypes, self.encoder.columns, self.stores, strict=True
        ):
            prefix = self.workplace.folder / Path(self.job.key_prefix(key)).name
            with StoreWriter(prefix, dtype, **store) as writer:
                files = writer.finish()
            content = manifest(
                key=key,
                sources=[_source(part, self.hashes.get(str(part.path))) for part in self.parts],
                tokenizer=_tokenizer_facts(self.job.tokenizer, self.encoder.tokenizer),
                append_eod=self.job.append_eod,
                dtype=dtype,
                subsets={
                    name: {
                        "documents": share.documents,
                        "text_bytes": share.text_bytes[column],
                        "tokens": share.tokens[column],
                    }
                    for name, share in sorted(self.tally.subsets.items())
                },
                left_out={"empty_documents": self.tally.empty_documents, "bad_records": self.tally.bad_records},
                files=files,
            )
            write_durably(Path(f"{prefix}.json"), content)
        self._keep({"complete": True, "stores": self.stores, "tally": asdict(self.tally)})

    def _may_be_empty(self) -> bool:
        """Whether no document is no fault: a shard may find none that begins in its part."""
        return self.job.shard.count > 1 and self.tally.bad_records == 0

    def _writers(self) -> Iterator[StoreWriter]:
        for key, dtype, store in zip(self.job.outputs, self.encoder.dtypes, self.stores, strict=True):
            yield StoreWriter(self.workplace.folder / Path(self.job.key_prefix(key)).name, dtype, **store)

    def _check(self, result: Encoded) -> None:
        """Stop at a bad record where the user wants that."""
        if result.complaints and not self.job.skip_bad_records:
            place, sentence = result.complaints[0]
            raise ConfigError(f"{place}: {sentence} (--on-error skip counts such records and goes on)")

    def _note(self, writers: list[StoreWriter]) -> dict[str, Any]:
        """Where the job stands, in values that JSON has."""
        stores = [{"sequences": writer.sequences, "tokens": writer.tokens} for writer in writers]
        return {"complete": False, "stores": stores, "tally": asdict(self.tally)}

    def _save(self, writers: list[StoreWriter], noted: dict[str, Any], hashes: dict[str, str]) -> None:
        for writer in writers:
            writer.flush()
        self._keep(noted | {"hashes": hashes})

    def _keep(self, state: dict[str, Any]) -> None:
        if not any(part.path == STANDARD_INPUT for part in self.parts):  # which cannot be read again from where it was
            self.workplace.save(state)

    def _progress(self) -> Progress:
        total = self.tally.total()
        text_bytes, tokens = sum(total.text_bytes), sum(total.tokens)
        return Progress(
            total_bytes=self.bytes_before[-1],
            read_bytes=self.bytes_before[self.tally.file] + self.tally.position,
            documents=total.documents,
            tokens=tokens,
            text_bytes=text_bytes,
            seconds=time.monotonic() - self.started,
            session_text_bytes=text_bytes - sum(self.before.text_bytes),
            session_tokens=tokens - sum(self.before.tokens),
        )


def _check_keys(keys: tuple[str, ...]) -> None:
    complaints = [f"jsonl_keys: {key!r} cannot be part of a file name" for key in keys if not key or "/" in key]
    if len(set(keys)) < len(keys):
        complaints.append("jsonl_keys: a key is given twice")
    if complaints:
        raise ConfigError(complaints)


def _identity(job: PreprocessJob, encoder: Encoder, parts: list[Part], stamps: list[list[int]]) -> dict[str, Any]:
    """What makes two jobs the same: then one goes on where the other broke off, to the same bytes."""
    names = [[str(part.path), part.begin, part.end, *old] for part, old in zip(parts, stamps)]
    return {
        # a long list of files is kept as its hash
        "input": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "jsonl-keys": list(job.jsonl_keys),
        "chat": [job.chat_key, asdict(encoder.template)] if isinstance(encoder, ChatEncoder) else None,
        "text-unit": job.text_unit,
        "tokenizer": _tokenizer_facts(job.tokenizer, encoder.tokenizer),
        "append-eod": job.append_eod,
        "ftfy": job.ftfy,
        "num-docs": job.num_docs,
        "shard": list(asdict(job.shard).values()),
    }


def _source(part: Part, sha256: str | None) -> dict[str, Any]:
    """What the manifest says of a file."""
    cut = {} if part.is_whole else {"part": [part.begin, part.end]}
    return {"path": str(part.path), "bytes": part.size, "sha256": sha256, **cut}


def _tokenizer_facts(config: TokenizerConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    facts = {"type": located(config).tokenizer_type, "vocab_size": tokenizer.vocab_size, "eod": tokenizer.eod}
    return facts | file_hashes(config)


def _encoder(job: PreprocessJob, tokenizer: Tokenizer) -> Encoder:
    if job.chat_key is None:
        return Encoder(tokenizer, job.jsonl_keys, job.append_eod, job.ftfy)
    eod = "" if tokenizer.eod is None else tokenizer.decode([tokenizer.eod])
    template = find_template(job.chat_template, job.tokenizer.vocab_file, eod)
    return ChatEncoder(tokenizer, job.chat_key, template, job.append_eod)
