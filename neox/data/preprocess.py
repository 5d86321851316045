"""Turn raw corpora into token files: read, encode in worker processes, write in order. Knows nothing about training.

    documents -> batches of text -> workers -> arrays of tokens -> one pair of token files for each key

Order is that of the input whatever the number of workers, and only a few batches are in memory at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from multiprocessing.connection import wait
from pathlib import Path

import numpy

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.corpus import Document, documents, find_corpora
from neox.data.store import StoreWriter, token_dtype
from neox.tokenizer.tokenizer import build_tokenizer

BATCH_CHARACTERS = 1 << 18  # a few tenths of a second of encoding; a longer document is a batch of its own
BATCH_DOCUMENTS = 1_000
BATCHES_PER_WORKER = 3  # in flight: one being encoded, two waiting
SHOWN_COMPLAINTS = 10


@dataclass(frozen=True)
class PreprocessJob:
    """What to read, how to encode it, and where to write it.

    `inputs` are the names of files; `num_docs` stops after so many documents; `skip_bad_records` counts what cannot be read
    instead of stopping at it.
    """

    inputs: list[str]
    output_prefix: str
    tokenizer: TokenizerConfig
    jsonl_keys: tuple[str, ...] = ("text",)
    append_eod: bool = False
    ftfy: bool = False
    workers: int = 1
    num_docs: int | None = None
    skip_bad_records: bool = False

    def prefix(self, key: str) -> str:
        """The prefix of the token files of one key."""
        return f"{self.output_prefix}_{key}_document"


@dataclass(frozen=True)
class Progress:
    """How far a job is. `read_bytes` of `total_bytes` on disk are done; `text_bytes` is the text that was encoded, as UTF-8."""

    total_bytes: int
    read_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class PreprocessResult:
    """What a job wrote and what it left out. `complaints` holds the first bad records, `bad_records` counts them all."""

    prefixes: list[str]
    dtype: numpy.dtype
    progress: Progress
    empty_documents: int
    bad_records: int
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Batch:
    """Documents on their way to a worker: the texts of each key, and how far the reading was."""

    texts: list[list[str]]  # [key][document]
    read_bytes: int


@dataclass(frozen=True)
class _Encoded:
    """A batch on its way back: for each key the tokens of all documents, one after another, and the length of each."""

    tokens: list[numpy.ndarray]
    lengths: list[numpy.ndarray]
    empty_documents: int
    text_bytes: int


class _Encoder:
    """What a worker does with a batch. Built once in each process."""

    def __init__(self, job: PreprocessJob):
        self.tokenizer = build_tokenizer(job.tokenizer)
        self.dtype = token_dtype(self.tokenizer.vocab_size)
        self.eod = numpy.array([self.tokenizer.eod] if job.append_eod else [], dtype=self.dtype)
        self.fix_text = _ftfy() if job.ftfy else None

    def __call__(self, batch: _Batch) -> _Encoded:
        texts = batch.texts
        if self.fix_text:
            texts = [[self.fix_text(text) for text in column] for column in texts]
        ids = [self.tokenizer.encode_batch(column) for column in texts]
        # a document is empty where no key has a token; where one has, every key gets its sequence, so that the files of
        # several keys stay parallel
        kept = [index for index in range(len(texts[0])) if any(column[index].size for column in ids)]
        tokens, lengths = [], []
        for column in ids:
            parts = [part for index in kept for part in (column[index], self.eod)]
            tokens.append(numpy.concatenate([self.eod[:0], *parts], dtype=self.dtype, casting="unsafe"))
            lengths.append(numpy.array([column[index].size + self.eod.size for index in kept], dtype=numpy.int32))
        text_bytes = sum(len(text.encode()) for column in texts for text in column)
        return _Encoded(tokens, lengths, len(texts[0]) - len(kept), text_bytes)


def preprocess(job: PreprocessJob, report: Callable[[Progress], None] = lambda _: None) -> PreprocessResult:
    """Run a job: `<output_prefix>_<key>_document.bin` and `.idx` of each key appear at its end, whole, or not at all.

    `report` is called after every batch. Raises ConfigError for whatever the user can mend: an input that is missing or cannot be
    read, a tokenizer's file, an output that cannot be written, no document at all.
    """
    paths = find_corpora(job.inputs)
    _check_keys(job.jsonl_keys)
    tokenizer = build_tokenizer(job.tokenizer)  # before a worker starts: its complaint comes at once, and only once
    if job.append_eod and tokenizer.eod is None:
        raise ConfigError(f"append_eod: the vocabulary of {job.tokenizer.vocab_file} has no token that ends a document")
    if job.ftfy:
        _ftfy()
    complaints = _Complaints(job.skip_bad_records)
    corpus = (document for path in paths for document in documents(path, job.jsonl_keys, complaints))
    batches = _batches(islice(corpus, job.num_docs), paths, len(job.jsonl_keys))

    prefixes = [job.prefix(key) for key in job.jsonl_keys]
    dtype = token_dtype(tokenizer.vocab_size)
    progress = Progress(total_bytes=sum(path.stat().st_size for path in paths))
    started, empty = time.monotonic(), 0
    with ExitStack() as stack:
        writers = [stack.enter_context(_open_store(prefix, dtype)) for prefix in prefixes]
        for read_bytes, encoded in _encode(job, batches, stack):
            for writer, tokens, lengths in zip(writers, encoded.tokens, encoded.lengths, strict=True):
                writer.add(tokens, lengths)
            empty += encoded.empty_documents
            progress = replace(
                progress,
                read_bytes=read_bytes,
                documents=len(writers[0].lengths),
                tokens=sum(writer.tokens for writer in writers),
                text_bytes=progress.text_bytes + encoded.text_bytes,
                seconds=time.monotonic() - started,
            )
            report(progress)
        if progress.tokens == 0:
            raise ConfigError(
                [*complaints.shown, f"no document with text in {', '.join(map(str, paths))}: nothing is written"]
            )
        for writer in writers:
            writer.publish()
    return PreprocessResult(prefixes, dtype, progress, empty, complaints.count, complaints.shown)


class _Complaints:
    """Takes the bad records: stops at the first, or counts them and keeps the first few."""

    def __init__(self, skip: bool):
        self.skip = skip
        self.count = 0
        self.shown: list[str] = []

    def __call__(self, place: str, sentence: str) -> None:
        if not self.skip:
            raise ConfigError(f"{place}: {sentence} (--on-error skip counts such records and goes on)")
        self.count += 1
        if len(self.shown) < SHOWN_COMPLAINTS:
            self.shown.append(f"{place}: {sentence}")


def _check_keys(keys: tuple[str, ...]) -> None:
    """A key becomes part of a file's name."""
    complaints = [f"jsonl_keys: {key!r} cannot be part of a file's name" for key in keys if not key or "/" in key]
    if len(set(keys)) < len(keys):
        complaints.append("jsonl_keys: a key is given twice")
    if complaints:
        raise ConfigError(complaints)


def _open_store(prefix: str, dtype: numpy.dtype) -> StoreWriter:
    folder = Path(prefix).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: the folder cannot be made ({error.strerror})") from error
    return StoreWriter(prefix, dtype)


def _batches(corpus: Iterable[Document], paths: list[Path], columns: int) -> Iterator[_Batch]:
    """Documents gathered into batches of about BATCH_CHARACTERS."""
    done_before = dict(zip(paths, accumulate((path.stat().st_size for path in paths), initial=0), strict=False))
    gathered: list[Document] = []
    characters = 0
    for document in corpus:
        gathered.append(document)
        characters += sum(map(len, document.texts))
        if characters >= BATCH_CHARACTERS or len(gathered) == BATCH_DOCUMENTS:
            yield _batch(gathered, done_before, columns)
            gathered, characters = [], 0
    if gathered:
        yield _batch(gathered, done_before, columns)


def _batch(gathered: list[Document], done_before: dict[Path, int], columns: int) -> _Batch:
    last = gathered[-1]
    texts = [[document.texts[column] for document in gathered] for column in range(columns)]
    return _Batch(texts, done_before[last.source] + last.position)


def _encode(job: PreprocessJob, batches: Iterable[_Batch], stack: ExitStack) -> Iterator[tuple[int, _Encoded]]:
    """How far the reading was at each batch, and its tokens, in order; with several workers a few batches ahead, in other
    processes."""
    if job.workers == 1:
        encode = _Encoder(job)
        for batch in batches:
            yield batch.read_bytes, encode(batch)
        return
    pool = ProcessPoolExecutor(
        job.workers,
        mp_context=multiprocessing.get_context("spawn"),  # a fork would copy the locks of the parent's threads
        initializer=_start_worker,
        initargs=(job,),
    )
    # leaving early (a bad record, Ctrl-C) drops what waits; what is being encoded ends by itself
    stack.callback(pool.shutdown, cancel_futures=True)
    waiting: deque = deque()
    for batch in batches:
        waiting.append((batch.read_bytes, pool.submit(_encode_in_worker, batch)))
        if len(waiting) >= BATCHES_PER_WORKER * job.workers:
            read_bytes, future = waiting.popleft()
            yield read_bytes, future.result()
    for read_bytes, future in waiting:
        yield read_bytes, future.result()


_worker_encoder: _Encoder | None = None  # the one state of a worker process


def _start_worker(job: PreprocessJob) -> None:
    """Runs once in each worker process."""
    global _worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker_encoder = _Encoder(job)


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _encode_in_worker(batch: _Batch) -> _Encoded:
    return _worker_encoder(batch)


def _ftfy() -> Callable[[str], str]:
    """The function that mends wrongly decoded text."""
    try:
        import ftfy  # noqa: PLC0415 (optional package)
    except ImportError as error:
        raise ConfigError("--ftfy needs `pip install ftfy`") from error
    return ftfy.fix_text
