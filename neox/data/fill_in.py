"""Fill-in-the-middle: documents cut in three and put together in another order, so that a model learns to write what is missing.

Bavarian et al. 2022, arXiv:2207.14255. A document "prefix middle suffix" becomes, with `P`, `S` and `M` for the marking tokens,

    P prefix S suffix M middle         PSM
    P S suffix M prefix middle         SPM (the paper's second variant, which shares PSM's beginning)

cut between any two letters. What is done to a sample follows from the seed and its number alone, so that a resumed run reads it
again as it was. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig
from neox.tokenizer.tokenizer import Tokenizer, joins_exactly


@dataclass(frozen=True)
class FillIn:
    """Ready to be done to samples."""

    data: DataConfig
    tokenizer: Tokenizer
    seed: int
    prefix: int  # ids of the marking tokens
    middle: int
    suffix: int
    split: int | None  # id of fim_split_sample

    def __call__(self, text: numpy.ndarray, number: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The tokens of sample `number` with some of its documents rearranged, at most as many as there were; and their labels,
        which are the same.

        The marking tokens take the place of the last ones.
        """
        random = numpy.random.default_rng([self.seed, number])
        parts = []
        for document in _pieces(text, self.tokenizer.eod):
            ended = document.size and document[-1] == self.tokenizer.eod
            body = document[:-1] if ended else document
            parts += [self._document(body, random), document[body.size :]]
        rearranged = numpy.concatenate(parts)[: text.size]
        return rearranged, rearranged

    def _document(self, tokens: numpy.ndarray, random: numpy.random.Generator) -> numpy.ndarray:
        """A document, or what the sample has of it, without its end."""
        if tokens.size == 0 or random.random() >= self.data.fim_rate:
            return tokens
        if self.split is None or self.split not in tokens:
            return self._rearranged(tokens, random)
        parts = []
        for fragment in _pieces(tokens, self.split):
            body = fragment[:-1] if fragment[-1] == self.split else fragment
            chosen = body.size and random.random() < self.data.fim_fragment_rate
            parts += [self._rearranged(body, random) if chosen else body, fragment[body.size :]]
        return numpy.concatenate(parts)

    def _rearranged(self, tokens: numpy.ndarray, random: numpy.random.Generator) -> numpy.ndarray:
        text = self.tokenizer.decode(tokens.tolist())
        skipped = self.data.fim_no_prefix is not None and text.startswith(self.data.fim_no_prefix)
        if skipped or "\ufffd" in text:  # a sample can begin or end within a letter, which cannot be decoded
            return tokens
        first, second = sorted(random.integers(0, len(text) + 1, size=2).tolist())
        before, between, after = self.tokenizer.encode_batch([text[:first], text[first:second], text[second:]])
        if random.random() < self.data.fim_spm_rate:
            parts = [[self.prefix, self.suffix], after, [self.middle], before, between]
        else:
            parts = [[self.prefix], before, [self.suffix], after, [self.middle], between]
        return numpy.concatenate(parts).astype(tokens.dtype)


def fill_in(data: DataConfig, tokenizer: Tokenizer, seed: int) -> FillIn | None:
    """What `fim_rate` asks for, None where it is 0.

    Raises ConfigError where the tokenizer lacks a marking token, or does not give text back letter by letter.
    """
    if data.fim_rate == 0:
        return None
    names = {key: getattr(data, key) for key in ("fim_prefix_token", "fim_middle_token", "fim_suffix_token")}
    if data.fim_split_sample is not None:
        names["fim_split_sample"] = data.fim_split_sample
    ids = {key: tokenizer.token_id(name) for key, name in names.items()}
    complaints = [
        f"{key}: the tokenizer has no token {names[key]}: give the name that it has, or add it, as docs/data.md shows"
        for key, found in ids.items()
        if found is None
    ]
    if not joins_exactly(tokenizer):
        complaints.append(
            "fim_rate: the tokenizer changes white space or letters, so that texts cannot be cut in parts"
        )
    if complaints:
        raise ConfigError(complaints)
    return FillIn(data, tokenizer, seed, *ids.values(), *([None] if data.fim_split_sample is None else []))


def _pieces(tokens: numpy.ndarray, end: int | None) -> Iterator[numpy.ndarray]:
    """The tokens in pieces, each with the `end` that closes it; the last may have none."""
    cuts = numpy.flatnonzero(tokens == end) + 1
    return (piece for piece in numpy.split(tokens, cuts) if piece.size)
