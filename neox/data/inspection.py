"""Say what is in token files: counts, lengths, texts. Knows nothing about training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from neox.config.errors import ConfigError
from neox.data.manifest import read_manifest
from neox.data.store import StoreFacts, check_store, read_lengths
from neox.tokenizer.tokenizer import Tokenizer

LENGTH_CLASSES = 32  # one for each power of two that an int32 may have


@dataclass(frozen=True)
class Inspection:
    """What the index and the manifest (None where there is none) say.

    `histogram[n]` counts the sequences of 2^n to 2^(n+1) - 1 tokens; the empty ones are in `empty`.
    """

    facts: StoreFacts
    manifest: dict[str, Any] | None
    empty: int
    shortest: int
    longest: int
    histogram: numpy.ndarray


def inspect_store(prefix: str) -> Inspection:
    """Check a pair of token files as training does, and describe it. ConfigError that names the file where it is damaged, or is not
    what its manifest says."""
    facts = check_store(prefix)
    found = read_manifest(prefix)
    if found is not None and (found["tokens"], found["documents"], found["dtype"]) != (
        facts.tokens,
        facts.documents,
        facts.dtype.name,
    ):
        raise ConfigError(f"{prefix}.json: its counts are not those of {prefix}.idx: the files do not belong together")
    histogram = numpy.zeros(LENGTH_CLASSES, dtype=numpy.int64)
    empty, shortest, longest = 0, numpy.iinfo(numpy.int32).max, 0
    for lengths in read_lengths(prefix):
        empty += int((lengths == 0).sum())
        shortest, longest = min(shortest, int(lengths.min())), max(longest, int(lengths.max()))
        # frexp gives the exponent of each number exactly: 8 to 15 have 4
        classes = numpy.frexp(lengths[lengths > 0].astype(numpy.float64))[1] - 1
        histogram += numpy.bincount(classes, minlength=LENGTH_CLASSES)
    return Inspection(facts, found, empty, shortest, longest, histogram)


def document_tokens(prefix: str, numbers: list[int]) -> Iterator[numpy.ndarray]:
    """The tokens of some sequences, by number from 0. ConfigError for one that is not there."""
    facts = check_store(prefix)
    lengths = numpy.concatenate(list(read_lengths(prefix)))
    tokens = numpy.memmap(Path(f"{prefix}.bin"), dtype=facts.dtype, mode="r")
    for number in numbers:
        if not 0 <= number < facts.sequences:
            raise ConfigError(f"{prefix}: there is no document {number:,}, only 0 to {facts.sequences - 1:,}")
        begin = int(lengths[:number].sum(dtype=numpy.int64))
        yield tokens[begin : begin + int(lengths[number])]


def learned_runs(labels: numpy.ndarray) -> list[numpy.ndarray]:
    """The stretches of a document's labels that are learned, in order."""
    learned = labels >= 0
    changes = numpy.flatnonzero(learned[1:] != learned[:-1]) + 1
    return [run for run in numpy.split(labels, changes) if run.size and run[0] >= 0]


@dataclass(frozen=True)
class Piece:
    """What a sample has of one document; `begins` says whether the document begins there."""

    document: int
    begins: bool
    text: str


def packed_sample(prefix: str, number: int, length: int, tokenizer: Tokenizer) -> list[Piece]:
    """The text of tokens `number` x `length` and following, as training packs documents before it shuffles them."""
    facts = check_store(prefix)
    begin, end = number * length, min((number + 1) * length, facts.tokens)
    if not 0 <= begin < facts.tokens:
        raise ConfigError(f"{prefix}: there is no sample {number:,} of {length:,} tokens in {facts.tokens:,}")
    ends = numpy.cumsum(numpy.concatenate(list(read_lengths(prefix))), dtype=numpy.int64)
    tokens = numpy.memmap(Path(f"{prefix}.bin"), dtype=facts.dtype, mode="r")
    first = int(numpy.searchsorted(ends, begin, "right"))
    pieces = []
    while begin < end:
        starts_here = begin == (int(ends[first - 1]) if first else 0)
        stop = min(int(ends[first]), end)
        pieces.append(Piece(first, starts_here, tokenizer.decode(tokens[begin:stop].tolist())))
        begin, first = stop, first + 1
    return pieces


@dataclass(frozen=True)
class Drawn:
    """One pair of token files in a mixture: the share of samples that is asked for, the share that is drawn, and how often these
    samples read all its training tokens."""

    prefix: str
    share: float
    drawn: float
    times: float
