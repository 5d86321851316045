"""Find documents that an earlier one equals, or resembles. Knows texts only by their keys: numbers that alike texts share.

Column 0 is the hash of the text. The others are MinHash's bands (Broder 1997): of the 112 smallest hashes of a text's runs of five
words, each 8 make one key. Of two texts that share the part s of their runs, the chance to share a band is 1 - (1 - s^8)^14: 5% at
s = 0.5, 56% at 0.7, 92% at 0.8, 99.9% at 0.9. The keys are on the disk, 8 bytes a document and column.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import ngrams, simplify_text

from tools.curation.words import HASHES, WORDS

MINHASH = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HASHES)
COLUMNS = 1 + MINHASH.num_buckets
RUNS_AT_A_TIME = 20_000  # a hundred and twelve hashes each: 18 MB
ROWS_AT_A_TIME = 1 << 23  # sorted at a time: 0.2 GB
NONE = 0  # no key: it equals no other


class Keys:
    """The keys of texts."""

    def __init__(self, exact: bool, near: bool):
        self.exact = exact
        self.minhash = MinhashDedupSignature("/", MINHASH, language=WORDS) if near else None  # writes nothing there
        self.hash_of = create_hash_func(HASHES)

    def __call__(self, text: str) -> numpy.ndarray:
        """The keys of one text: (COLUMNS,) uint64, NONE where none is asked for or the text has no run of five words."""
        keys = numpy.full(COLUMNS, NONE, numpy.uint64)
        if self.exact:
            keys[0] = _hash64(text.encode())
        if self.minhash:
            smallest = self._smallest_hashes(text)
            if smallest is not None:
                keys[1:] = [_hash64(band.tobytes()) for band in smallest]
        return keys

    def _smallest_hashes(self, text: str) -> numpy.ndarray | None:
        """(bands, hashes in a band), as datatrove's `get_signature` finds them, in little memory for a text of any length."""
        words = WORDS.word_tokenize(simplify_text(text, MINHASH.norm_config))
        smallest = None
        for begin in range(0, len(words) - MINHASH.n_grams + 1, RUNS_AT_A_TIME):
            some = words[begin : begin + RUNS_AT_A_TIME + MINHASH.n_grams - 1]
            hashes = [self.hash_of(" ".join(run)) for run in ngrams(some, MINHASH.n_grams)]
            found = numpy.array(self.minhash.get_signature(numpy.array(hashes, numpy.uint64).reshape(-1, 1)))
            smallest = found if smallest is None else numpy.minimum(smallest, found)
        return smallest


def _hash64(content: bytes) -> int:
    """64 bits: the chance that any two of 200 million texts agree by accident is one in a thousand."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") or 1


def copies(files: list[Path], rows: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Which documents equal an earlier one, and which of the others resemble an earlier one in some band: two arrays of booleans.

    `files` hold the columns. The earliest of a group is always kept.
    """
    exact, near = numpy.zeros(rows, bool), numpy.zeros(rows, bool)
    for number, file in enumerate(files):
        for found in _repeated(file, rows):
            (near if number else exact)[found] = True
    return exact, near & ~exact


def _repeated(file: Path, rows: int) -> Iterator[numpy.ndarray]:
    """The rows of one column whose key is in an earlier row."""
    if not rows:
        return
    column = numpy.memmap(file, numpy.uint64, mode="r", shape=(rows,))
    parts = -(-rows // ROWS_AT_A_TIME)  # by key, so that equal ones come together
    for part in range(parts):
        pieces = []
        for begin in range(0, rows, ROWS_AT_A_TIME):
            some = column[begin : begin + ROWS_AT_A_TIME]
            pieces.append(begin + numpy.flatnonzero((some % parts == part) & (some != NONE)))
        indices = numpy.concatenate(pieces)
        keys = column[indices]
        order = numpy.argsort(keys, kind="stable")  # equal keys stay in the order of the rows
        repeats = keys[order[1:]] == keys[order[:-1]]
        yield indices[order[1:][repeats]]
