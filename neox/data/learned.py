"""What is learned of each document of a store, by its labels: many documents at a time, not one after another.

A label is the token to predict, or a negative number where none is. Knows nothing about samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from neox.data.samples import IndexedDataset

TOKENS_AT_ONCE = 1 << 22


def has_labels(labels: IndexedDataset, seq_length: int) -> numpy.ndarray:
    """Which documents have something to learn among the labels that a sample reads of them, (documents,) bool."""
    found = numpy.empty(len(labels), dtype=bool)
    for documents in _spans(labels.sequence_lengths):
        lengths = labels.sequence_lengths[documents]
        begins, learned = _begins(lengths), numpy.flatnonzero(_tokens(labels, documents) >= 0)
        # the first token of a sample is read, and predicted by nothing
        before, until = (learned.searchsorted(begins + lengths.clip(max=most)) for most in (1, seq_length + 1))
        found[documents] = before < until
    return found


def first_other_question(
    stores: tuple[IndexedDataset, IndexedDataset], labels: tuple[IndexedDataset, IndexedDataset]
) -> int | None:
    """The first document that begins with another question in one store than in the other, None where there is none.

    A question is what comes before the first label. stores: of as many documents; labels: theirs, of the same lengths.
    """
    for documents in _spans(sum(store.sequence_lengths.astype(numpy.int64) for store in stores)):
        (first, in_first), (second, in_second) = (
            _questions(store, of_store, documents) for store, of_store in zip(stores, labels)
        )
        differ = in_first != in_second
        # of questions that are as long as each other, the tokens lie side by side
        first, second = first[numpy.repeat(~differ, in_first)], second[numpy.repeat(~differ, in_second)]
        owners = numpy.repeat(numpy.arange(differ.size), numpy.where(differ, 0, in_first))
        differ[owners[first != second]] = True
        if differ.any():
            return documents.start + int(differ.argmax())
    return None


def _questions(store: IndexedDataset, labels: IndexedDataset, documents: slice) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The questions of documents, one after another, and the tokens of each, (documents,) int64."""
    lengths = labels.sequence_lengths[documents]
    begins, tokens = _begins(lengths), _tokens(store, documents)
    learned = numpy.append(numpy.flatnonzero(_tokens(labels, documents) >= 0), tokens.size)
    ends = numpy.minimum(learned[learned.searchsorted(begins)], begins + lengths)
    places = numpy.arange(tokens.size)
    return tokens[places < numpy.repeat(ends, lengths)], ends - begins


def _spans(lengths: numpy.ndarray) -> Iterator[slice]:
    """All documents, so many at a time that their tokens are not too many for memory."""
    ends = lengths.cumsum(dtype=numpy.int64)
    begin = tokens = 0
    while begin < len(ends):
        end = max(begin + 1, int(ends.searchsorted(tokens + TOKENS_AT_ONCE, "right")))
        yield slice(begin, end)
        begin, tokens = end, int(ends[end - 1])


def _begins(lengths: numpy.ndarray) -> numpy.ndarray:
    """Where each document begins among the tokens of all of them, int64."""
    return lengths.cumsum(dtype=numpy.int64) - lengths


def _tokens(store: IndexedDataset, documents: slice) -> numpy.ndarray:
    """The tokens of documents that follow one another."""
    count = store.sequence_lengths[documents].sum(dtype=numpy.int64)
    return store.bin_reader.read(store.index.dtype, int(count), int(store.index.sequence_pointers[documents.start]))
