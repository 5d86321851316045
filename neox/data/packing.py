"""Samples that keep documents whole: alone (`unpacked`), or one after another while they fit (`pack_until_overflow`).

Both are gpt-neox's. A document of more tokens than a sample has loses its end, or, without `allow_chopped`, is left out. Knows
nothing about files.
"""

from __future__ import annotations

import numpy

SHORTEST = 2  # tokens: one to read and one to predict


def usable(lengths: numpy.ndarray, longest: int, allow_chopped: bool) -> numpy.ndarray:
    """Which documents of these lengths can be in a sample of up to `longest` tokens, bool."""
    return (lengths >= SHORTEST) & (allow_chopped | (lengths <= longest))


def packed_whole(
    documents: numpy.ndarray, lengths: numpy.ndarray, longest: int, samples: int, together: bool, seed: int
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The documents in the order in which they are read, int32, and where each sample begins in it, int64 with the end as last.

    At least so many samples, over whole epochs; each epoch has every document once, in an order of its own. documents: numbers
    of documents, and their lengths. longest: tokens of a sample. together: whether documents share samples.
    """
    random = numpy.random.RandomState(seed)
    orders, begins, count, read = [], [], 0, 0
    while count < samples:
        order = random.permutation(len(documents))
        starts = _greedy(lengths[order].clip(max=longest), longest) if together else numpy.arange(len(order))
        orders.append(documents[order])
        begins.append(starts + read)
        count += len(starts)
        read += len(order)
    ends = numpy.array([read])
    return numpy.concatenate(orders).astype(numpy.int32), numpy.concatenate([*begins, ends]).astype(numpy.int64)


def _greedy(lengths: numpy.ndarray, longest: int) -> numpy.ndarray:
    """Where samples begin if each takes the next documents until one does not fit any more."""
    ends = lengths.cumsum(dtype=numpy.int64)
    starts, taken = [0], longest
    while (begin := int(numpy.searchsorted(ends, taken, "right"))) < len(lengths):
        starts.append(begin)
        taken = int(ends[begin - 1]) + longest
    return numpy.array(starts)
