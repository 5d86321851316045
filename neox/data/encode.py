"""Encode batches of records, in this process or in worker processes, in order. Knows nothing about files.

    records -> documents -> ids -> one array of tokens for each key

Raw bytes go to a worker and arrays of tokens come back: the process that reads and writes does little else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import numpy

from neox.config.errors import ConfigError
from neox.data.corpus import Document, RecordError, parse
from neox.data.record_batches import Batch
from neox.data.records import Record
from neox.data.store import token_dtype
from neox.tokenizer.tokenizer import Tokenizer

Workers = Callable[[Iterable[Batch]], Iterator[tuple[Batch, Any]]]  # batches, and what an encoder makes of each
BATCHES_PER_WORKER = 3  # in flight: one being encoded, two waiting


@dataclass
class Share:
    """What one subset of the corpus came to: texts in bytes of UTF-8 and tokens, by key."""

    documents: int = 0
    text_bytes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def add(self, other: Share) -> None:
        """Count the other in."""
        self.documents += other.documents
        self.text_bytes = [a + b for a, b in zip(self.text_bytes or [0] * len(other.text_bytes), other.text_bytes)]
        self.tokens = [a + b for a, b in zip(self.tokens or [0] * len(other.tokens), other.tokens)]


@dataclass(frozen=True)
class Encoded:
    """A batch on its way back: for each key the tokens of all documents, one after another, and the length of each."""

    tokens: list[numpy.ndarray]
    lengths: list[numpy.ndarray]
    subsets: dict[str, Share]
    empty_documents: int
    complaints: list[tuple[str, str]]  # place and sentence of each bad record


class Encoder:
    """What is done with a batch."""

    def __init__(self, tokenizer: Tokenizer, keys: tuple[str, ...], append_eod: bool, ftfy: bool):
        self.tokenizer = tokenizer
        self.keys = keys
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.dtypes = [self.dtype] * len(keys)  # of each array that comes out
        self.columns = list(range(len(keys)))  # and the place in `Share` where it is counted
        self.eod = numpy.array([tokenizer.eod] if append_eod else [], dtype=self.dtype)
        self.ftfy = ftfy

    def __call__(self, records: list[Record]) -> Encoded:
        """Encode records. Raises ConfigError where the tokenizer gives ids that its vocabulary does not have."""
        documents, complaints = self._parse(records)
        columns = [[document.texts[column] for document in documents] for column in range(len(self.keys))]
        if self.ftfy:
            fix_text = ftfy_function()
            columns = [[fix_text(text) for text in column] for column in columns]
        ids = [self.tokenizer.encode_batch(column) for column in columns]
        # a document is empty where no key has a token; where one has, every key gets its sequence, so that the files of
        # several keys stay parallel
        kept = [index for index in range(len(documents)) if any(column[index].size for column in ids)]
        subsets: dict[str, Share] = {}
        for index in kept:
            texts = [_utf8_size(column[index]) for column in columns]
            tokens = [column[index].size + self.eod.size for column in ids]
            subsets.setdefault(documents[index].subset, Share()).add(Share(1, texts, tokens))
        return Encoded(
            tokens=[self._joined([column[index] for index in kept]) for column in ids],
            lengths=[
                numpy.array([column[index].size + self.eod.size for index in kept], numpy.int32) for column in ids
            ],
            subsets=subsets,
            empty_documents=len(documents) - len(kept),
            complaints=complaints,
        )

    def _parse(self, records: list[Record]) -> tuple[list[Document], list[tuple[str, str]]]:
        documents, complaints = [], []
        for record in records:
            try:
                documents.append(parse(record, self.keys))
            except RecordError as error:
                complaints.append((record.place, str(error)))
        return documents, complaints

    def _joined(self, sequences: list[numpy.ndarray]) -> numpy.ndarray:
        """All sequences, each with its end, in one array of the store's dtype."""
        parts = [part for sequence in sequences for part in (sequence, self.eod)]
        return self.stored(numpy.concatenate(parts) if parts else self.eod[:0])

    def stored(self, tokens: numpy.ndarray) -> numpy.ndarray:
        """Tokens in the store's dtype; ConfigError where the tokenizer gave ids that its vocabulary does not have."""
        if tokens.size and tokens.max() >= self.tokenizer.vocab_size:
            raise ConfigError(
                f"the tokenizer gives the id {tokens.max():,}, and its vocabulary ends at {self.tokenizer.vocab_size - 1:,}"
            )
        return tokens.astype(self.dtype)


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@contextmanager
def worker_processes(encoder: Callable[[list[Record]], Any], workers: int) -> Iterator[Workers]:
    """A function that gives each batch and what the encoder makes of it, in order; with several workers a few batches ahead, in other
    processes.

    These are forks, which have the encoder at once: to make it anew takes each of them a second. Begin them before a lock is taken,
    which they would hold too.
    """
    if workers == 1:
        yield lambda batches: ((batch, encoder(batch.records)) for batch in batches)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_start_worker, initargs=(encoder,)
    )
    pool.submit(int)  # all processes start with the first task, before the pool has a thread
    try:
        yield partial(_encoded, pool, BATCHES_PER_WORKER * workers)
    finally:
        # leaving early (a bad record, Ctrl-C) drops what waits; what is being encoded ends by itself
        pool.shutdown(cancel_futures=True)


def _encoded(pool: ProcessPoolExecutor, most: int, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
    """The batches in order, of which so many are on their way at once."""
    waiting: deque = deque()
    for batch in batches:
        waiting.append((batch, pool.submit(_encode_in_worker, batch.records)))
        if len(waiting) >= most:
            batch, future = waiting.popleft()
            yield batch, future.result()
    for batch, future in waiting:
        yield batch, future.result()


_worker_encoder: Callable[[list[Record]], Any] | None = None  # the one state of a worker process


def _start_worker(encoder: Callable[[list[Record]], Any]) -> None:
    """Runs once in each worker process."""
    global _worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker_encoder = encoder


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _encode_in_worker(records: list[Record]) -> Any:
    return _worker_encoder(records)


def ftfy_function() -> Callable[[str], str]:
    """The function that mends wrongly decoded text."""
    try:
        import ftfy  # noqa: PLC0415 (optional package)
    except ImportError as error:
        raise ConfigError("--ftfy needs `pip install ftfy`") from error
    return ftfy.fix_text
